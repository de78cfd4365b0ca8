"""Engines of this machine: jobs in this process, one after the other, or in processes of their own."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from ntm_rl.agents.engines.jobs import Engine, Job, Outcome, run_job
from ntm_rl.agents.runs.signals import HANDLED, end_with_parent
from ntm_rl.errors import InputError

# Exit codes of the process of a job; any other means that it failed.
EXIT_CODES = {Outcome.FINISHED: 0, Outcome.BUSY: 75, Outcome.STOPPED: 76}
OUTCOMES: dict[int | None, Outcome] = {code: outcome for outcome, code in EXIT_CODES.items()}


def local_engine(jobs: int) -> Engine:
    """Returns the engine for a number of parallel jobs; a single one runs in this process and shows its progress.

    Raises:
        InputError: fewer than one job.
    """
    return InProcessEngine() if jobs == 1 else ProcessEngine(jobs)


class InProcessEngine(Engine):
    """Runs one job at a time in this process with its progress display; `wait` returns when the job has ended.

    `stop` has no effect, as signals reach the job itself.
    """

    def __init__(self) -> None:
        self._job: Job | None = None

    @property
    def capacity(self) -> int:
        """One job."""
        return 1

    def submit(self, job: Job) -> None:
        """Keeps the job for `wait`."""
        self._job = job

    def wait(self, seconds: float) -> Sequence[tuple[Job, Outcome]]:
        """Runs the job to its end; without one, waits for `seconds`."""
        job, self._job = self._job, None
        if job is None:
            time.sleep(seconds)
            return []
        try:
            return [(job, run_job(job, show_progress=True))]
        except InputError as error:
            print(error, file=sys.stderr)
            return [(job, Outcome.FAILED)]

    def stop(self, job: Job | None = None) -> None:
        """Has no effect."""


class ProcessEngine(Engine):
    """Runs each job in its own process.

    Args:
        jobs: Number of jobs that run at a time.
        restarts: How often a job is restarted after its process is killed.
        log: File for the standard error of the processes; None: that of this process.

    Raises:
        InputError: fewer than one job.
    """

    def __init__(self, jobs: int, restarts: int = 0, log: Path | None = None) -> None:
        if jobs < 1:
            raise InputError(f"jobs = {jobs}: must be at least 1")
        self._jobs = jobs
        self._restarts = restarts
        self._log = log
        self._running: dict[SpawnProcess, tuple[Job, int]] = {}  # with the restarts that are left
        self._stopping: set[SpawnProcess] = set()

    @property
    def capacity(self) -> int:
        """The number of parallel processes."""
        return self._jobs

    def submit(self, job: Job) -> None:
        """Starts a process."""
        self._start(job, self._restarts)

    def wait(self, seconds: float) -> Sequence[tuple[Job, Outcome]]:
        """Waits until a process ends."""
        sentinels = connection.wait([process.sentinel for process in self._running], seconds)
        ended = []
        for process in [each for each in self._running if each.sentinel in sentinels]:
            process.join()  # the sentinel closes before there is an exit code
            job, restarts = self._running.pop(process)
            outcome, code = self._outcome(job, process), process.exitcode or 0
            if outcome is Outcome.FAILED and code < 0:
                self._report(f"{job.name}: its process was ended by {signal.Signals(-code).name}")
                if restarts:
                    self._start(job, restarts - 1)
                    continue
            ended.append((job, outcome))
        return ended

    def stop(self, job: Job | None = None) -> None:
        """Sends SIGTERM, on which a training finishes its rollout and writes a checkpoint."""
        for process, (each, _) in self._running.items():
            if (job is None or each == job) and process not in self._stopping:
                self._stopping.add(process)
                process.terminate()

    def _report(self, line: str) -> None:
        if self._log is None:
            print(line, file=sys.stderr)
        else:
            with self._log.open("a") as file:
                print(line, file=file)

    def _start(self, job: Job, restarts: int) -> None:
        process = multiprocessing.get_context("spawn").Process(target=_run_in_process, args=(job, self._log))
        process.start()
        self._running[process] = job, restarts

    def _outcome(self, job: Job, process: SpawnProcess) -> Outcome:
        if job.is_finished():
            return Outcome.FINISHED
        if process in self._stopping or -(process.exitcode or 0) in HANDLED:  # also before the training has started
            self._stopping.discard(process)
            return Outcome.STOPPED
        return OUTCOMES.get(process.exitcode, Outcome.FAILED)


def _run_in_process(job: Job, log: Path | None) -> None:
    """Runs a job in a process, which stops when its parent ends."""
    os.setpgrp()  # Ctrl-C reaches only the parent, which stops the trainings
    if log is not None:
        with log.open("a") as file:
            os.dup2(file.fileno(), 2)
    end_with_parent()
    try:
        sys.exit(EXIT_CODES[run_job(job, show_progress=False)])
    except InputError as error:
        sys.exit(str(error))
