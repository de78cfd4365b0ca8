"""One training of the soak in a process of its own, and what it leaves behind."""

import ctypes
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo  # imported once, for all forked processes: every optimizer wants it, which takes seconds
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ntm_rl.agents.training  # noqa: F401  (imported once, as above)
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.agents.tracking.csv_log import read_table

CAP_VERSION, DAC_OVERRIDE, DAC_READ_SEARCH = 0x20080522, 1, 2  # of Linux's capset(2)
CLOCKS = ("time/fps", "time/time_elapsed", "time/sequences_per_second")


class SoakError(Exception):
    """What was promised did not hold."""


@dataclass
class Training:
    """One training in a folder of its own."""

    arguments: list[str]
    folder: Path
    rng: random.Random

    @property
    def run(self) -> Path | None:
        """The run's folder, once it has a config."""
        found = [path.parent for path in self.folder.glob("runs/*/*/*/config.yaml")]
        return found[0] if found else None

    def start(self, disturb: Callable[[], None] | None = None) -> int:
        """Begins the training, or goes on with it, in a forked process; returns its id."""
        run = self.run
        command = ["resume", str(run)] if run else ["train", *self.arguments, f"run_dir={self.folder / 'runs'}"]
        seed = self.rng.random()
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            random.seed(seed)
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
            obey_permissions()
            torch.set_num_threads(1)
            if disturb:
                disturb()
            code = main(command)
            sys.stderr.flush()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def good_steps(self) -> list[int]:
        """Returns the steps of all checkpoints that can be read, in order."""
        return [] if self.run is None else sorted(map(_step, filter(is_good, self.checkpoints())))

    def checkpoints(self) -> list[Path]:
        """Returns all checkpoints, the newest last."""
        return [] if self.run is None else sorted((self.run / "checkpoints").glob("step-*.safetensors"))


def obey_permissions() -> None:
    """Gives root's privilege up to write where no permission is."""
    if os.getuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAP_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for index in (0, 1):  # effective, permitted
        sets[index] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def is_good(path: Path) -> bool:
    with suppress(StorageError):
        return bool(read_tensors(path))
    return False


def wait(child: int, timeout: float = 300) -> int | None:
    """Returns a process's exit code, minus the signal that killed it; None if it does not end in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def outcome(training: Training) -> dict[str, object]:
    """Returns everything that a training leaves behind, but for what clocks say."""
    assert training.run is not None
    tensors, document = read_tensors(training.checkpoints()[-1])
    for episode in document.get("episodes", []):
        del episode["t"]
    if document["kind"] != "checkpoint":  # a supervised training draws nothing from Python's and NumPy's generators
        del document["random"]
    document.get("pending", {}).clear()
    columns, rows = read_table(training.run / "progress.csv")
    events = EventAccumulator(str(training.run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = {
        tag: sorted((event.step, repr(event.value)) for event in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
        if tag not in CLOCKS
    }
    agent = {
        str(path.relative_to(training.run)): read_tensors(path)[0]
        for path in training.run.glob("*/weights.safetensors")
    }
    return {
        "weights and everything else in the checkpoint": {name: _content(each) for name, each in tensors.items()},
        "counters": document,
        "columns": columns,
        "progress.csv": [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows],
        "tensorboard": scalars,
        "agents": {path: {name: _content(each) for name, each in part.items()} for path, part in agent.items()},
    }


def _content(tensor: torch.Tensor) -> tuple[str, list[int], bytes]:
    return str(tensor.dtype), list(tensor.shape), tensor.numpy().tobytes()
