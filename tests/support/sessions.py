"""Commands in sessions of their own, which can be killed with all their processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path


def start(*arguments: str, log: Path) -> "subprocess.Popen[bytes]":
    """Starts `ntm-rl` in a new session; its output goes to a file."""
    with log.open("ab") as file:
        command = [sys.executable, "-m", "ntm_rl", *arguments]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def kill_session(process: "subprocess.Popen[bytes]") -> None:
    """Kills all processes of a session at once."""
    for number in session(process.pid):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def session(leader: int) -> Iterator[int]:
    """Yields the processes of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            number = int(folder.name)
            if os.getsid(number) == leader:
                yield number


def ended(processes: Sequence["subprocess.Popen[bytes]"]) -> bool:
    """Returns whether all processes have ended."""
    return all(process.poll() is not None for process in processes)
