"""Logging as a training does it, and W&B's offline files."""

import json
import struct
import time

from wandb.proto import wandb_internal_pb2

from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking.logger import make_logger
from ntm_rl.agents.tracking.wandb_run import start_wandb


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


def log(logger, step: int, **values) -> None:
    for key, value in values.items():
        logger.record(f"train/{key}", value)
    logger.record(PPO.steps_metric, step, exclude="tensorboard")
    logger.dump(step)


def wait_for_another_second(run_dir) -> None:
    """W&B tells the parts of a run apart by the second in which they began."""
    while list(run_dir.glob(f"wandb/offline-run-{time.strftime('%Y%m%d_%H%M%S')}-*")):
        time.sleep(0.05)


def begin(run_dir, steps: int = 0):
    wait_for_another_second(run_dir)
    writer = start_wandb(run_dir, {"ppo": {"gamma": 0.9}, "seed": 3}, mode="offline", project="test", tags=("a",))
    return writer, make_logger(run_dir, writer, steps)


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
