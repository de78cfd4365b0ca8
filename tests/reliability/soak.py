"""Kill-and-resume, again and again: small trainings meet random faults and must end as if nothing had happened.

    python tests/reliability/soak.py --minutes 60 [--seed 0]

Every training is first run through without a fault. Then the same training is started by the command line's own code in
a forked process (torch is imported once, here), interrupted, and resumed by `ntm-rl resume`, until it is finished; its
last checkpoint, its agent, `progress.csv` and TensorBoard's events must be those of the first, to the last bit, clocks
apart. Faults: SIGKILL at a random instant; SIGKILL at a chosen stage of a checkpoint's write; a full disk (a small
tmpfs, for which mounting must be allowed); folders without write permission; a damaged newest checkpoint; a clock that
jumps. After every fault the newest good checkpoint from before it must still be there and be good.
"""

import argparse
import ctypes
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch._dynamo  # imported once, for all forked processes: every optimizer wants it, which takes seconds
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ntm_rl.agents.training  # noqa: F401  (imported once, as above)
from ntm_rl.agents.cli.exit_codes import CANNOT_WRITE
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.agents.tracking.csv_log import read_table

CAP_VERSION, DAC_OVERRIDE, DAC_READ_SEARCH = 0x20080522, 1, 2  # of Linux's capset(2)
CLOCKS = ("time/fps", "time/time_elapsed", "time/sequences_per_second")
SMALL = ["memory.ntm.slots=5", "memory.ntm.hidden_size=8", "wandb=disabled", "checkpoint.keep=3"]
PPO = ["n_envs=4", "ppo.n_steps=32", "ppo.sequence_length=16", "ppo.batch_size=64", "ppo.n_epochs=1"]
PPO += ["total_timesteps=2560", "checkpoint.every=256"]
LSTM = ["env.id=popgym-ConcentrationEasy-v0", "memory.lstm.hidden_size=8"]
SCENARIOS = {
    "cards": ["popgym/repeat_previous_easy", *SMALL, *PPO, "env.previous_action=true", "env.previous_reward=true"],
    "cartpole": [
        *("popgym/repeat_previous_easy", *SMALL, *PPO, "env.id=CartPole-v1", "ppo.learning_rate_schedule=linear"),
        *("env.normalize_observation=true", "env.normalize_reward=true", "ppo.stats_window_size=10"),
    ],
    "concentration": ["popgym/repeat_previous_easy", *SMALL, *PPO, "core=lstm", *LSTM],
    "copy": [
        *("popgym/repeat_previous_easy", *SMALL, *PPO, "env.id=ntm_rl/Copy-v0", "policy.critic=separate"),
        *("env.kwargs={curriculum: lookahead, bits: 1, max_length: 4}", "ppo.recompute_states=true"),
    ],
    "pong": [
        *("popgym/repeat_previous_easy", *SMALL, *PPO, "env.id=ALE/Pong-v5", "n_envs=2", "total_timesteps=512"),
        *("env.kwargs={stack: 1, flicker: 0.3, size: 44, repeat_action_probability: 0.25}", "checkpoint.every=64"),
    ],
    "supervised": [
        *("algorithmic/copy", *SMALL, "task.copy.max_length=4", "batch_size=4", "curriculum=lookahead"),
        *("total_sequences=2400", "validation.every=300", "validation.sequences=8", "log_every=200"),
        "checkpoint.every=130",
    ],
}


class SoakError(Exception):
    """What was promised did not hold."""


@dataclass
class Counts:
    """What happened so far."""

    faults: Counter[str] = field(default_factory=Counter)
    trainings: int = 0
    checkpoints_lost: int = 0


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
        return [] if self.run is None else sorted(map(_step, filter(_is_good, self.checkpoints())))

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


def _is_good(path: Path) -> bool:
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


# The faults: each starts the training, disturbs it, and returns once the process has ended.


def kill_at_random(training: Training, seconds: float) -> str:
    """SIGKILL at any instant from the start on."""
    child = training.start()
    time.sleep(training.rng.uniform(0, seconds))
    return _kill(child, "kill at a random instant")


def kill_while_writing(training: Training, seconds: float) -> str:
    """SIGKILL in the first moment at which a half-written checkpoint lies in the folder."""
    child = training.start()
    deadline, skip = time.monotonic() + seconds, training.rng.random() * seconds * 0.7
    time.sleep(skip)
    while time.monotonic() < deadline:
        run = training.run
        if run is not None and any((run / "checkpoints").glob(".step-*.tmp")):
            return _kill(child, "kill while a checkpoint is half written")
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
    return _kill(child, "kill at a random instant")


def kill_at_a_stage(training: Training, seconds: float) -> str:
    """SIGKILL by the process itself, before or after one of the steps by which a file is replaced."""
    stage, left = training.rng.choice(["before fsync", "before rename", "after rename"]), training.rng.randint(1, 4)

    def disturb() -> None:
        fsync, replace, count = os.fsync, Path.replace, [left]

        def dies(now: str) -> None:
            if now == stage:
                count[0] -= 1
                if count[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        def dying_fsync(descriptor: int) -> None:
            is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
            dies("after rename" if is_folder else "before fsync")
            fsync(descriptor)

        def dying_replace(path: Path, target: Path) -> Path:
            dies("before rename")
            return replace(path, target)

        os.fsync, Path.replace = dying_fsync, dying_replace  # type: ignore[assignment, method-assign]

    code = wait(training.start(disturb))
    if code not in (-signal.SIGKILL, 0):
        raise SoakError(f"exit code {code} of a process that was to be killed {stage}")
    return f"kill {stage} of a file" if code else "no fault in time"


def clock_jumps(training: Training, seconds: float) -> str:
    """The system's clock jumps by up to ten hours, at the start and once in between; then SIGKILL."""
    jumps = [training.rng.uniform(-36_000, 36_000) for _ in range(2)]
    begins, at = time.time(), training.rng.uniform(0, seconds)

    def disturb() -> None:
        now, now_ns = time.time, time.time_ns

        def jump() -> float:
            return sum(jumps[: 2 if now() > begins + at else 1])

        time.time = lambda: now() + jump()  # type: ignore[assignment]
        time.time_ns = lambda: now_ns() + int(1e9 * jump())  # type: ignore[assignment]

    child = training.start(disturb)
    time.sleep(training.rng.uniform(0, seconds))
    return _kill(child, "clock jumps, then a kill")


def full_disk(training: Training, seconds: float) -> str:
    """The file system has no space left from a random instant on."""
    filler = training.folder / "filler"
    child = training.start()
    time.sleep(training.rng.uniform(0, seconds))
    free = os.statvfs(training.folder)
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            file.write(bytes(free.f_bavail * free.f_bsize - 4096 * training.rng.randint(0, 8)))
        return _must_refuse(training, child, "full disk")
    finally:
        filler.unlink(missing_ok=True)


def no_permission(training: Training, seconds: float) -> str:
    """The folders of the run cannot be written from a random instant on."""
    child = training.start()
    time.sleep(training.rng.uniform(0, seconds))
    run = training.run
    folders = [] if run is None else [run, *(path for path in run.iterdir() if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        return _must_refuse(training, child, "run folder read-only")
    finally:
        for folder in folders:
            folder.chmod(0o755)


def damage(training: Training, seconds: float) -> str:
    """After a SIGKILL, the newest checkpoint is cut short or has a bit flipped."""
    kill_at_random(training, seconds)
    good = [path for path in training.checkpoints() if _is_good(path)]
    if len(good) < 2:
        return "kill at a random instant"
    content = bytearray(good[-1].read_bytes())
    if training.rng.random() < 0.5:
        del content[training.rng.randrange(len(content)) :]
    else:
        content[training.rng.randrange(len(content))] ^= 1 << training.rng.randrange(8)
    good[-1].write_bytes(content)
    return "kill, then a damaged checkpoint"


def _kill(child: int, name: str) -> str:
    os.kill(child, signal.SIGKILL)
    code = wait(child)
    if code not in (-signal.SIGKILL, 0):
        raise SoakError(f"exit code {code} before the kill")
    return name if code else "no fault in time"


def _must_refuse(training: Training, child: int, name: str) -> str:
    code = wait(child)
    if code not in (0, CANNOT_WRITE):
        raise SoakError(f"{name}: exit code {code}, must be {CANNOT_WRITE}")
    return name if code else "no fault in time"


FAULTS: dict[Callable[[Training, float], str], float] = {
    kill_at_random: 5,
    kill_while_writing: 2,
    kill_at_a_stage: 3,
    clock_jumps: 1,
    full_disk: 1,
    no_permission: 1,
    damage: 1,
}


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


def interrupt_until_done(
    training: Training, seconds: float, counts: Counts, is_full: Callable[[], bool], can_fill: bool
) -> None:
    """Disturbs a training until it is finished; checks after each fault that no checkpoint was lost."""
    best, done = -1, False
    while not done:
        kinds = [kind for kind in FAULTS if can_fill or kind is not full_disk]
        kind = training.rng.choices(kinds, [FAULTS[kind] for kind in kinds])[0]
        if is_full():
            name, done = "no fault in time", wait(training.start()) == 0
        else:
            name = kind(training, seconds)
            done = name == "no fault in time"
        steps = training.good_steps()
        if name == "kill, then a damaged checkpoint":
            best = steps[-1]  # the soak itself spoilt the newest
        if best >= 0 and (not steps or steps[-1] < best):
            counts.checkpoints_lost += 1
            raise SoakError(f"{name}: checkpoint of step {best} is lost; left are {steps}")
        best = steps[-1] if steps else -1
        if not done:
            counts.faults[name] += 1


def make_folder(root: Path, name: str) -> Path:
    """Makes a folder of a training."""
    folder = root / name
    folder.mkdir()
    return folder


def soak(root: Path, minutes: float, seed: int, small_disk: Path | None, max_faults: int | None) -> Counts:
    """Runs until the time is over or that many faults have happened; raises SoakError at the first broken promise."""
    deadline, counts, rng = time.monotonic() + 60 * minutes, Counts(), random.Random(seed)
    expected: dict[str, tuple[dict[str, object], float]] = {}

    def is_full() -> bool:
        over = max_faults is not None and counts.faults.total() >= max_faults
        return over or time.monotonic() > deadline

    names = list(SCENARIOS)
    while not is_full():
        name = names[counts.trainings % len(names)]
        if name not in expected:
            first = Training(SCENARIOS[name], make_folder(root, f"{name}-whole"), rng)
            began = time.monotonic()
            if (code := wait(first.start())) != 0:
                log = (first.folder / "log.txt").read_text()[-2000:]
                raise SoakError(f"{name}: exit code {code} without any fault:\n{log}")
            expected[name] = outcome(first), (time.monotonic() - began) / 2
        whole, seconds = expected[name]
        can_fill = small_disk is not None and counts.trainings % 2 == 0
        training = Training(SCENARIOS[name], make_folder(small_disk if can_fill and small_disk else root, name), rng)
        try:
            interrupt_until_done(training, seconds, counts, is_full, can_fill)
            found = outcome(training)
            for part, content in whole.items():
                if found[part] != content:
                    raise SoakError(f"{name}: {part} differ from those of the uninterrupted training")
        except SoakError as error:
            kept = Path(tempfile.mkdtemp(prefix="soak-")) / name
            shutil.copytree(training.folder, kept)
            raise SoakError(f"{error}; its folder is kept in {kept}; so far {dict(counts.faults)}") from error
        shutil.rmtree(training.folder)
        counts.trainings += 1
    return counts


def main_soak() -> int:
    """Reads the command line, soaks, prints the summary; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-faults", type=int, help="end after so many faults")
    options = parser.parse_args()
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="ntm-rl-soak-"))
    small = root / "small"
    small.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(small)]
    can_mount = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    try:
        counts = soak(root, options.minutes, options.seed, small if can_mount else None, options.max_faults)
    except SoakError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if can_mount:
            subprocess.run(["umount", str(small)], check=False)
        shutil.rmtree(root, ignore_errors=True)
    kills = sum(number for name, number in counts.faults.items() if "kill" in name)
    summary = {
        "date": f"{datetime.date.today()}",
        "seed": options.seed,
        "seconds": round(time.monotonic() - began),
        "trainings finished with an identical result": counts.trainings,
        "kills survived": kills,
        "faults survived": counts.faults.total(),
        "faults": dict(sorted(counts.faults.items())),
        "checkpoints lost": counts.checkpoints_lost,
        "disk full": "by a small tmpfs" if can_mount else "left out: mounting a tmpfs is not allowed here",
    }
    print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main_soak())
