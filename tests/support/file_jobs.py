"""Jobs for engines that need no training."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.errors import InputError
from waiting import wait_until


@dataclass(frozen=True)
class FileJob:
    """Writes a file, waits for a signal or for the file `go`, fails, or kills its process.

    Attributes:
        folder: Folder of the files.
        action: One of write, wait, fail, die (always) and die_once.
    """

    folder: Path
    action: str = "write"

    @property
    def name(self) -> str:
        return self.action

    @property
    def lock_file(self) -> Path:
        return self.folder / f".{self.action}.lock"

    def is_finished(self) -> bool:
        return (self.folder / "result").exists()

    def run(self, show_progress: bool) -> signal.Signals | None:
        with (self.folder / "started").open("a") as file:
            print(os.getpid(), file=file)
        with SignalListener() as signals:
            if self.action == "wait":
                wait_until(lambda: signals.received or (self.folder / "go").exists())
            elif self.action == "fail":
                raise InputError("key = 1: no such key")
            elif self.action == "die" or (self.action == "die_once" and len(self.processes()) == 1):
                os.kill(os.getpid(), signal.SIGKILL)
        if signals.received is None:
            (self.folder / "result").touch()
        return signals.received

    def processes(self) -> list[int]:
        """Returns the processes that have run the job."""
        started = self.folder / "started"
        return [int(line) for line in started.read_text().splitlines()] if started.exists() else []
