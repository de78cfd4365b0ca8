"""Faults of the soak: each starts a training, disturbs it and returns its name once the process has ended."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ntm_rl.agents.cli.exit_codes import CANNOT_WRITE
from soak_training import SoakError, Training, is_good, wait


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
    good = [path for path in training.checkpoints() if is_good(path)]
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
