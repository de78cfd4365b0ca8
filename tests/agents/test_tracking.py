"""CSV, TensorBoard and a real offline W&B run, read back from their files."""

import csv
import json
import struct
import time

import numpy as np
import pytest
import wandb
from matplotlib.figure import Figure as MatplotlibFigure
from stable_baselines3.common.logger import Figure, Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from ntm_rl.agents.tracking import STEPS, WandbWriter, default_mode, make_logger, start_wandb


def records(log: bytes) -> list[bytes]:
    """Reads W&B's log: after a header of 7 bytes LevelDB's format, blocks of 32 KiB with records of 7 + n bytes."""
    found, parts, position = [], b"", 7
    while position + 7 <= len(log):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", log[position : position + 7])
        parts += log[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(parts)
            parts = b""
    return found


def read_wandb(folder) -> tuple[list[dict], list[dict], list[str]]:
    """Returns the configs, the history rows and the logged artifacts' names of all offline runs under `folder`."""
    configs, history, artifacts = [], [], []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                configs.append({item.key: json.loads(item.value_json) for item in record.run.config.update})
                configs[-1]["_id"] = record.run.run_id
            if record.HasField("history"):
                items = record.history.item
                history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
            if record.request.HasField("log_artifact"):
                artifacts.append(record.request.log_artifact.artifact.name)
            if record.HasField("artifact"):
                artifacts.append(record.artifact.name)
    return configs, history, artifacts


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "task" / "20260101-000000-seed0-abcd"
    path.mkdir(parents=True)
    return path


def log(logger, step: int, **values) -> None:
    for key, value in values.items():
        logger.record(f"train/{key}", value)
    logger.record(STEPS, step, exclude="tensorboard")
    logger.dump(step)


def begin(run_dir, steps: int = 0):
    writer = start_wandb(run_dir, {"ppo": {"gamma": 0.9}, "seed": 3}, mode="offline", project="test", tags=("a",))
    return writer, make_logger(run_dir, writer, steps)


def test_a_real_offline_run_holds_config_and_metrics_in_order_also_after_a_resume(run_dir):
    writer, logger = begin(run_dir)
    for step in (100, 200, 300):
        log(logger, step, loss=step / 7)
    (run_dir / "agent").mkdir()
    (run_dir / "agent" / "card.json").write_text("{}")
    writer.log_agent("agent-x", run_dir / "agent", ["latest"], {"timesteps": 300})
    logger.close()
    time.sleep(1.1)  # W&B names a run's folder by the second
    _, logger = begin(run_dir, steps=200)  # killed after 300, resumed from a checkpoint at 200
    for step in (300, 400):
        log(logger, step, loss=step / 7)
    logger.close()

    deadline = time.monotonic() + 20
    configs, history, artifacts = read_wandb(run_dir)
    while sum("train/loss" in row for row in history) < 5 and time.monotonic() < deadline:
        time.sleep(0.2)  # W&B's own process may write a little after the run has ended
        configs, history, artifacts = read_wandb(run_dir)
    assert {config["_id"] for config in configs} == {"task-20260101-000000-seed0-abcd"}
    assert configs[0]["ppo"] == {"gamma": 0.9} and configs[0]["seed"] == 3
    rows = [(row[STEPS], row["train/loss"]) for row in history if "train/loss" in row]
    assert rows == [(step, step / 7) for step in (100, 200, 300, 300, 400)]
    assert "agent-x" in artifacts


def test_the_csv_goes_on_after_a_resume_without_gap_or_repetition_and_takes_new_columns(run_dir):
    logger = make_logger(run_dir, None)
    log(logger, 100, loss=1.0)
    log(logger, 200, loss=2.0, extra=5)
    log(logger, 300, loss=3.0)
    logger.close()
    with (run_dir / "progress.csv").open("a") as file:
        file.write("4.0,tor")  # a row that a killed process did not finish
    logger = make_logger(run_dir, None, steps=200)
    log(logger, 300, loss=3.5)
    logger.close()
    with (run_dir / "progress.csv").open() as file:
        rows = [(row[STEPS], row["train/loss"], row["train/extra"]) for row in csv.DictReader(file)]
    assert rows == [("100", "1.0", ""), ("200", "2.0", "5"), ("300", "3.5", "")]


def test_tensorboard_forgets_what_a_resume_repeats(run_dir):
    logger = make_logger(run_dir, None)
    for step in (100, 200, 300):
        log(logger, step, loss=1.0)
    logger.close()
    logger = make_logger(run_dir, None, steps=200)
    log(logger, 300, loss=2.0)
    logger.close()
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(100, 1.0), (200, 1.0), (300, 2.0)]


class BrokenRun:
    def __init__(self):
        self.calls = 0

    def define_metric(self, *_, **__):
        pass

    def finish(self):
        raise ConnectionError("still away")

    def log(self, _):
        self.calls += 1
        raise ConnectionError("the server is away")


def test_wandbs_trouble_is_one_warning_and_then_silence():
    run = BrokenRun()
    writer = WandbWriter(run)
    with pytest.warns(UserWarning, match="left alone from here on: the server is away"):
        writer.write({"a": 1}, {"a": ()}, 1)
    writer.write({"a": 1}, {"a": ()}, 2)
    writer.close()
    assert run.calls == 1


def test_a_run_that_cannot_start_is_a_warning(run_dir, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.warns(UserWarning, match="could not start; training goes on without it: no"):
        assert start_wandb(run_dir, {}, mode="offline", project="test") is None
    assert start_wandb(run_dir, {}, mode="disabled", project="test") is None


def test_pictures_videos_and_figures_become_wandbs(tmp_path):
    logged = []

    class Run(BrokenRun):
        def log(self, row):
            logged.append(row)

    values = {
        "picture": Image(np.zeros((4, 4, 3), np.uint8), "HWC"),
        "figure": Figure(MatplotlibFigure(), close=True),
        "number": 2.0,
        "text": "left out",
        "excluded": 1,
    }
    WandbWriter(Run()).write(values, {**dict.fromkeys(values, ()), "excluded": ("wandb",)}, step=7)
    (row,) = logged
    assert isinstance(row["picture"], wandb.Image) and isinstance(row["figure"], wandb.Image)
    assert row["number"] == 2.0 and row[STEPS] == 7
    assert row.keys() == {"picture", "figure", "number", STEPS}


def test_the_default_is_online_only_with_a_login(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_mode() == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert default_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert default_mode() == "disabled"
