"""Jobs: trainings that an engine runs, in whatever process, and that no two processes run at a time."""

import fcntl
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from ntm_rl.agents.storage.files import WriteError, make_folder
from ntm_rl.errors import InputError


class Job(Protocol):
    """A training; it can be pickled, and run again to continue."""

    @property
    def name(self) -> str:
        """The name in messages."""

    @property
    def lock_file(self) -> Path:
        """The file that is locked while the job runs; its folder is made if missing."""

    def is_finished(self) -> bool:
        """Whether the job has written its result."""

    def run(self, show_progress: bool) -> signal.Signals | None:
        """Trains, from the last checkpoint if there is one, and writes the result.

        Returns:
            The signal that stopped the training, if any; in this case there is no result yet.

        Raises:
            InputError: the training failed.
        """


class Outcome(Enum):
    """How a job that was submitted to an engine has ended.

    Attributes:
        FINISHED: The job has its result.
        STOPPED: It was stopped by a signal, and continues when it is submitted again.
        BUSY: Another process runs it.
        FAILED: It failed; the error was printed to standard error.
    """

    FINISHED = "finished"
    STOPPED = "stopped"
    BUSY = "busy"
    FAILED = "failed"


class JobBusyError(Exception):
    """Another process runs the job."""


class Engine(ABC):
    """Runs jobs; a context manager, which stops the jobs that still run at its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Number of jobs that run at a time."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Runs a job; at most `capacity` may be submitted and not ended."""

    @abstractmethod
    def wait(self, seconds: float) -> Sequence[tuple[Job, Outcome]]:
        """Waits until a job ends, but no longer than `seconds`, and returns the jobs that have ended."""

    @abstractmethod
    def stop(self, job: Job | None = None) -> None:
        """Asks a job, or all, to write a checkpoint and stop; `wait` returns it when it has stopped."""


@contextmanager
def locked(job: Job) -> Iterator[None]:
    """Holds the lock of a job, which the system releases when the process ends.

    Raises:
        JobBusyError: another process runs the job, such as one of a killed grid that still writes its checkpoint.
        InputError: the lock file cannot be written, or its file system has no locks.
    """
    path = job.lock_file
    make_folder(path.parent)
    try:
        file = path.open("w")
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error
    with file:
        try:
            lock(file, path)
        except BlockingIOError as error:
            raise JobBusyError from error
        yield


def lock(file: IO[Any], path: Path) -> None:
    """Locks an open file until it is closed or the process ends.

    Raises:
        BlockingIOError: it is locked already.
        InputError: its file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be locked: {error.strerror}; choose a folder with file locks") from error


def run_job(job: Job, *, show_progress: bool) -> Outcome:
    """Runs a job in this process, unless it is finished.

    Raises:
        InputError: the job failed.
    """
    try:
        with locked(job):
            stopped_by = None if job.is_finished() else job.run(show_progress)
    except JobBusyError:
        return Outcome.BUSY
    return Outcome.FINISHED if stopped_by is None else Outcome.STOPPED


def take_free(jobs: list[Job]) -> Job | None:
    """Removes and returns the first job that no process runs, if any."""
    for index, job in enumerate(jobs):
        with suppress(JobBusyError), locked(job):
            return jobs.pop(index)
    return None
