"""CSV, TensorBoard and a real offline W&B run, read back from their files."""

import csv
import http.server
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
import wandb
from matplotlib.figure import Figure as MatplotlibFigure
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Figure, Image, Video
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.inspection.figures import inspect
from ntm_rl.agents.ppo.callbacks import CheckpointCallback
from ntm_rl.agents.ppo.checkpoints import load_checkpoint
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.kinds import PPO, SUPERVISED
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.tracking import wandb_run
from ntm_rl.agents.tracking import wandb_writer as tracking
from ntm_rl.agents.tracking.logger import make_logger
from ntm_rl.agents.tracking.wandb_run import default_mode, start_wandb
from ntm_rl.agents.tracking.wandb_writer import WandbWriter
from ntm_rl.agents.training import train


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


def whole_log(path) -> list[wandb_internal_pb2.Record]:
    """Waits for the record that ends a log: `finish` may return a moment before wandb has written everything."""
    deadline = time.monotonic() + 20
    while True:
        found = [wandb_internal_pb2.Record.FromString(data) for data in records(path.read_bytes())]
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.05)


def read_wandb(folder) -> tuple[list[dict], list[dict], list[str]]:
    """Returns the configs, the history rows and the logged artifacts' names of all offline runs under `folder`."""
    configs, history, artifacts = [], [], []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_ctime_ns):
        for record in whole_log(path):
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
    logger.record(PPO.steps_metric, step, exclude="tensorboard")
    logger.dump(step)


def begin(run_dir, steps: int = 0):
    while list(run_dir.glob(f"wandb/offline-run-{time.strftime('%Y%m%d_%H%M%S')}-*")):
        time.sleep(0.05)  # W&B tells the parts of a run apart by the second in which they began
    writer = start_wandb(run_dir, {"ppo": {"gamma": 0.9}, "seed": 3}, mode="offline", project="test", tags=("a",))
    return writer, make_logger(run_dir, writer, steps)


def test_an_offline_run_has_config_and_metrics_in_order_after_a_resume(run_dir):
    writer, logger = begin(run_dir)
    for step in (100, 200, 300):
        log(logger, step, loss=step / 7)
    (run_dir / "agent").mkdir()
    (run_dir / "agent" / "card.json").write_text("{}")
    writer.log_agent("agent-x", run_dir / "agent", ["latest"], {"timesteps": 300})
    logger.close()
    _, logger = begin(run_dir, steps=200)  # killed after 300, resumed from a checkpoint at 200
    for step in (300, 400):
        log(logger, step, loss=step / 7)
    logger.close()

    configs, history, artifacts = read_wandb(run_dir)
    assert {config["_id"] for config in configs} == {"task-20260101-000000-seed0-abcd"}
    assert configs[0]["ppo"] == {"gamma": 0.9} and configs[0]["seed"] == 3
    rows = [(row[PPO.steps_metric], row["train/loss"]) for row in history if "train/loss" in row]
    assert rows == [(step, step / 7) for step in (100, 200, 300, 400)]
    assert "agent-x" in artifacts


def test_a_real_training_that_was_killed_and_resumed_is_logged_by_steps_without_gap_or_repetition(
    run_dir,
):
    def train(steps: int, until: int) -> None:
        _, logger = begin(run_dir, steps)
        kwargs = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8))
        env = make_vec_env("CartPole-v1", 2, seed=0)
        model = MemoryPPO("MlpNtmPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, policy_kwargs=kwargs)
        if steps:
            load_checkpoint(run_dir / "checkpoints" / f"step-{steps:012d}.safetensors", model)
        model.set_logger(logger)
        saves = CheckpointCallback(run_dir / "checkpoints", every=128, keep=9)
        model.learn(until - steps, saves, reset_num_timesteps=False)
        logger.close()

    train(0, 320)
    train(128, 448)  # as if the first had been killed before it could save at 256
    configs, history, _ = read_wandb(run_dir)
    assert {config["_id"] for config in configs} == {"task-20260101-000000-seed0-abcd"}
    assert [row[PPO.steps_metric] for row in history if "rollout/ep_rew_mean" in row] == [*range(64, 449, 64)]
    assert all({"train/loss", "time/fps"} <= row.keys() for row in history if row[PPO.steps_metric] in (128, 320, 448))
    with (run_dir / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row[PPO.steps_metric]) for row in rows] == [*range(64, 449, 64)]
    assert all(float(row["rollout/ep_rew_mean"]) > 0 for row in rows)


def test_a_supervised_training_and_its_figures_are_logged_against_sequences(tmp_path):
    sizes = ["memory.ntm.slots=8", "memory.ntm.width=4", "memory.ntm.hidden_size=6", "task.copy.max_length=3"]
    often = ["total_sequences=40", "validation.every=20", "validation.sequences=4", "log_every=20"]
    settings = load_settings("algorithmic/copy", [*sizes, *often, f"run_dir={tmp_path}", "wandb=offline"])
    run = Run.open(train(settings, "algorithmic/copy", show_progress=False).run)
    time.sleep(1.1)  # W&B names the folders of a run's parts by the second
    inspect(run)
    configs, history, artifacts = read_wandb(run.path)
    assert configs[0]["task"]["name"] == "copy"
    assert len({config["_id"] for config in configs}) == 1
    rows = [row for row in history if "validation/bits_per_sequence" in row]
    assert [row[SUPERVISED.steps_metric] for row in rows] == [20, 40]
    assert any(key.startswith("figures/memory_use") for row in history for key in row)
    assert any("agent-copy-" in name for name in artifacts)


def test_the_csv_continues_after_a_resume_without_gap_or_repetition_and_adds_columns(run_dir):
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
        rows = [(row[PPO.steps_metric], row["train/loss"], row["train/extra"]) for row in csv.DictReader(file)]
    assert rows == [("100", "1.0", ""), ("200", "2.0", "5"), ("300", "3.5", "")]


def test_a_process_killed_before_its_first_row_ended_leaves_a_usable_file(run_dir):
    (run_dir / "progress.csv").write_text("train/lo")
    logger = make_logger(run_dir, None, steps=100)
    log(logger, 200, loss=1.0)
    logger.close()
    assert (run_dir / "progress.csv").read_text() == f"{PPO.steps_metric},train/loss\n200,1.0\n"


def test_the_csv_has_only_numbers(run_dir):
    logger = make_logger(run_dir, None)
    values = {
        "a": np.float32(0.5),
        "b": torch.tensor(2.5),
        "c": True,
        "d": "text",
        "e": torch.zeros(3),
        "f": float("nan"),
    }
    for key, value in values.items():
        logger.record(key, value, exclude="tensorboard")
    logger.dump(1)
    logger.close()
    with (run_dir / "progress.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"a": "0.5", "b": "2.5", "c": "True", "f": "nan"}]


@pytest.mark.parametrize("content", ["a,b\n1,2,3\n", f"{PPO.steps_metric}\nmany\n", b"\xff\xfe\n", 'a\n"1\n'])
def test_a_file_that_is_not_a_table_is_one_error_and_stays_unchanged(run_dir, content):
    data = content if isinstance(content, bytes) else content.encode()
    (run_dir / "progress.csv").write_bytes(data)
    try:
        make_logger(run_dir, None, steps=100).close()
    except StorageError as error:
        assert "progress.csv: not a table that ntm-rl wrote" in str(error)
        assert (run_dir / "progress.csv").read_bytes() == data
    else:
        assert content == 'a\n"1\n'  # an open quote is a value like any other


def test_a_full_disk_is_one_error_and_closing_adds_none(run_dir):
    logger = make_logger(run_dir, None)
    log(logger, 100, loss=1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((run_dir / "progress.csv").stat().st_size + 3, before[1]))
    try:
        with pytest.raises(StorageError, match=r"progress\.csv: cannot be written: File too large"):
            log(logger, 200, loss=2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.close()
    logger = make_logger(run_dir, None, steps=100)
    log(logger, 200, loss=2.5)
    logger.close()
    assert (run_dir / "progress.csv").read_text().splitlines()[1:] == ["100,1.0", "200,2.5"]


def test_tensorboard_drops_the_steps_that_a_resume_repeats(run_dir):
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


class FakeRun:
    def __init__(self, error: Exception | None = None):
        self.rows, self.error, self.finished = [], error, 0

    def define_metric(self, *_, **__):
        pass

    def finish(self):
        self.finished += 1
        if self.error:
            raise ConnectionError("still away")

    def log(self, row):
        self.rows.append(row)
        if self.error:
            raise self.error


def test_an_error_of_wandb_is_one_warning_and_the_run_is_finished():
    run = FakeRun(ConnectionError("the server is away"))
    writer = WandbWriter(run)
    writer.write({"a": 1}, {"a": ()}, 1)
    writer._thread.join(10)
    with pytest.warns(UserWarning, match="disabled for the rest of the training: the server is away"):
        writer.write({"a": 1}, {"a": ()}, 2)
    writer.write({"a": 1}, {"a": ()}, 3)
    writer.close()
    assert len(run.rows) == 1 and run.finished == 1


def test_a_run_that_cannot_start_is_a_warning(run_dir, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.warns(UserWarning, match="could not start; training continues without it: no"):
        assert start_wandb(run_dir, {}, mode="offline", project="test") is None
    assert start_wandb(run_dir, {}, mode="disabled", project="test") is None


def convert(value):
    run = FakeRun()
    writer = WandbWriter(run)
    writer.write({"x": value}, {"x": ()}, 7)
    writer.close()
    (row,) = run.rows
    assert row.pop(PPO.steps_metric) == 7
    return row.get("x")


@pytest.mark.parametrize(
    ("dataformats", "shape"), [("HWC", (4, 5, 3)), ("CHW", (3, 4, 5)), ("HW", (4, 5)), ("WH", (5, 4))]
)
def test_images_keep_their_axes(dataformats, shape):
    picture = convert(Image(np.arange(np.prod(shape)).reshape(shape).astype(np.uint8), dataformats)).image
    assert picture.size == (5, 4)
    row, column = (1, 2)
    index = {"H": row, "W": column, "C": 0}
    expected = np.arange(np.prod(shape)).reshape(shape)[tuple(index[letter] for letter in dataformats)]
    assert np.asarray(picture)[row, column].flat[0] == expected


def test_float_images_are_in_0_to_1_as_in_tensorboard():
    assert np.asarray(convert(Image(torch.full((2, 2, 3), 0.5), "HWC")).image).flat[0] == 127
    assert len(convert(Image(torch.rand(3, 2, 2, 3), "NHWC"))) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_videos_need_no_extra_encoder(channels):
    (video,) = convert(Video(torch.randint(0, 255, (1, 6, channels, 8, 10), dtype=torch.uint8), fps=10))
    assert isinstance(video, wandb.Video)


def test_figures_histograms_and_numbers():
    assert isinstance(convert(Figure(MatplotlibFigure(), close=True)), wandb.Image)
    assert sum(convert(torch.randn(5, 4)).histogram) == sum(convert(np.arange(20)).histogram) == 20
    assert (convert(2.0), convert(np.float32(0.5)), convert(torch.tensor(3)), convert("text")) == (2.0, 0.5, 3, None)


def test_excluded_metrics_are_not_logged():
    run = FakeRun()
    writer = WandbWriter(run)
    writer.write({"a": 1, "b": 2}, {"a": ("wandb",), "b": ("csv",)}, 7)
    writer.close()
    assert run.rows == [{"b": 2, PPO.steps_metric: 7}]


def test_a_value_that_cannot_be_logged_is_skipped_with_one_warning():
    run = FakeRun()
    writer = WandbWriter(run)
    values = {"bad": torch.tensor([float("nan")] * 3), "good": 1.0}
    with pytest.warns(UserWarning, match="bad cannot be logged to Weights & Biases"):
        writer.write(values, dict.fromkeys(values, ()), 1)
    writer.write(values, dict.fromkeys(values, ()), 2)
    writer.close()
    assert run.rows == [{"good": 1.0, PPO.steps_metric: 1}, {"good": 1.0, PPO.steps_metric: 2}]


def test_a_run_of_the_caller_is_not_touched(run_dir, tmp_path):
    settings = wandb.Settings(silent=True, console="off")
    own = wandb.init(mode="offline", dir=str(tmp_path), id="own", settings=settings)
    _, logger = begin(run_dir)
    log(logger, 100, loss=1.0)
    logger.close()
    own.log({"still": "open"})
    own.finish()
    assert {config["_id"] for config in read_wandb(run_dir)[0]} == {"task-20260101-000000-seed0-abcd"}


@pytest.mark.parametrize("name", ["my config#1: a/b?", "x" * 200, "ünï"])
def test_any_name_of_a_config_makes_a_valid_id_and_artifact(tmp_path, name):
    folder = tmp_path / name / "20260101-000000-seed0-abcd"
    folder.mkdir(parents=True)
    writer = start_wandb(folder, {}, mode="offline", project="test")
    (folder / "agent").mkdir()
    (folder / "agent" / "card.json").write_text("{}")
    writer.log_agent(f"agent-{name}", folder / "agent", ["latest"], {})
    writer.close()
    (config,) = read_wandb(folder)[0]
    assert config["_id"].endswith("-20260101-000000-seed0-abcd") and len(config["_id"]) <= 128
    assert len(read_wandb(folder)[2]) == 1


def test_without_login_or_server_a_run_is_recorded_offline_with_a_warning(run_dir):
    script = f"""
import sys
from pathlib import Path
from ntm_rl.agents.tracking.wandb_run import start_wandb
writer = start_wandb(Path({str(run_dir)!r}), {{"seed": 3}}, mode="online", project="test")
writer.write({{"a": 1.0}}, {{"a": ()}}, 64)
writer.close()
"""
    nowhere = {"HOME": str(run_dir), "NETRC": str(run_dir / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    for login, reason in [({}, "not logged in"), ({"WANDB_API_KEY": "a" * 40}, "127.0.0.1:9 does not answer")]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=50, check=True, env={**environment, **nowhere, **login}
        )
        assert done.stderr.count("Warning") == 1 and reason in done.stderr
    configs, history, _ = read_wandb(run_dir)
    assert [config["seed"] for config in configs] == [3, 3]
    assert [(row["a"], row[PPO.steps_metric]) for row in history if "a" in row] == [(1.0, 64), (1.0, 64)]


class NotFound(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_any_response_in_time_counts_as_an_answer(monkeypatch):
    monkeypatch.setattr(wandb_run, "ANSWER_SECONDS", 0.3)
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert wandb_run._answers(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not wandb_run._answers(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert not wandb_run._answers("no address")


def test_the_default_mode_is_online_only_with_a_login(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = urlsplit(wandb.setup().settings.base_url).netloc

    def default_with(machine: str) -> str:
        (tmp_path / ".netrc").write_text(f"machine {machine} login user password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        return default_mode()

    assert default_mode() == "offline"
    assert default_with("example.org") == "offline"
    assert default_with(server) == "online"
    (tmp_path / ".netrc").rename(tmp_path / "elsewhere")
    assert default_mode() == "offline"
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert default_mode() == "online"
    for chosen, mode in [("disabled", "disabled"), ("dryrun", "offline"), ("run", "online")]:
        monkeypatch.setenv("WANDB_MODE", chosen)
        assert default_mode() == mode


class SlowRun(FakeRun):
    """A W&B run whose `log` blocks until `may_log` is set."""

    def __init__(self):
        super().__init__()
        self.may_log = threading.Event()

    def log(self, row):
        self.may_log.wait(60)
        super().log(row)


def test_a_slow_wandb_does_not_delay_the_training_and_gets_every_row():
    run = SlowRun()
    writer = WandbWriter(run)
    began = time.monotonic()
    for step in range(1000):
        writer.write({"a": step}, {"a": ()}, step)
    assert time.monotonic() - began < 5 and not run.rows
    run.may_log.set()
    writer.close()
    assert [row[PPO.steps_metric] for row in run.rows] == list(range(1000)) and run.finished == 1


def test_wandb_is_disabled_when_its_queue_is_full(monkeypatch):
    monkeypatch.setattr(tracking, "MAX_QUEUED", 5)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.1)
    run = SlowRun()
    writer = WandbWriter(run)
    with pytest.warns(UserWarning, match="disabled for the rest of the training: 5 entries are queued"):
        for step in range(9):
            writer.write({"a": step}, {"a": ()}, step)
    writer.close()
    run.may_log.set()


def test_no_secret_is_written_into_a_run_directory(tmp_path, monkeypatch, capsys):
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    sizes = ["n_envs=2", "ppo.n_steps=32", "ppo.batch_size=64", "ppo.sequence_length=32", "total_timesteps=128"]
    arguments = ["train", "popgym/repeat_previous_easy", *sizes, f"run_dir={tmp_path}", "wandb=offline"]
    assert main(arguments) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    printed = capsys.readouterr()
    assert secret not in printed.out + printed.err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WANDB_MODE", "onlin", "WANDB_MODE = 'onlin': must be online, offline or disabled"),
        ("WANDB_BASE_URL", "wandb.example.org", "must begin with http:// or https://"),
        ("OMP_NUM_THREADS", "many", "OMP_NUM_THREADS = 'many': must be a number"),
    ],
)
def test_invalid_environment_variables_are_an_error_before_anything_is_created(
    tmp_path, monkeypatch, capsys, name, value, message
):
    monkeypatch.setenv(name, value)
    assert main(["train", "popgym/repeat_previous_easy", f"run_dir={tmp_path / 'runs'}"]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
