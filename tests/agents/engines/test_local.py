"""The engines of one machine, on jobs that need no training."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ntm_rl.agents.engines.jobs import Outcome, locked, take_free
from ntm_rl.agents.engines.local import local_engine
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.errors import InputError
from waiting import wait_until


@dataclass(frozen=True)
class FileJob:
    """Writes a file, waits for a signal, fails or kills itself."""

    folder: Path
    action: str = "write"

    @property
    def name(self):
        return self.action

    @property
    def lock_file(self):
        return self.folder / f".{self.action}.lock"

    def is_finished(self):
        return (self.folder / "write").exists()

    def run(self, show_progress):
        (self.folder / self.action).touch()
        with SignalListener() as signals:
            if self.action == "wait":
                wait_until(lambda: signals.received)
            elif self.action == "fail":
                raise InputError("key = 1: no such key")
            elif self.action == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        return signals.received


def end_of(engine, job):
    (ended,) = engine.wait(60)
    assert ended[0] == job
    return ended[1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_finishes_fails_or_is_busy(jobs, tmp_path, capfd):
    with local_engine(jobs) as engine:
        assert engine.capacity == jobs and engine.wait(0) == []
        failing = FileJob(tmp_path, "fail")
        engine.submit(failing)
        assert end_of(engine, failing) is Outcome.FAILED
        assert capfd.readouterr().err == "key = 1: no such key\n"
        job = FileJob(tmp_path)
        with locked(job):
            assert take_free([job]) is None
            engine.submit(job)
            assert end_of(engine, job) is Outcome.BUSY
        engine.submit(job)
        assert end_of(engine, job) is Outcome.FINISHED
        assert take_free([job]) is job


def test_one_of_two_jobs_is_stopped(tmp_path):
    jobs = [FileJob(tmp_path / name, "wait") for name in ("one", "two")]
    with local_engine(2) as engine:
        for job in jobs:
            engine.submit(job)
            wait_until(lambda job=job: (job.folder / "wait").exists())
        time.sleep(0.2)
        engine.stop(jobs[1])
        assert end_of(engine, jobs[1]) is Outcome.STOPPED
        assert engine.wait(0) == []
        engine.stop()
        assert end_of(engine, jobs[0]) is Outcome.STOPPED


def test_a_job_whose_process_is_killed_has_failed(tmp_path):
    job = FileJob(tmp_path, "die")
    with local_engine(2) as engine:
        engine.submit(job)
        assert end_of(engine, job) is Outcome.FAILED


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *arguments: (_ for _ in ()).throw(OSError(37, "No locks available")))
    with (
        pytest.raises(InputError, match=r"\.write\.lock: cannot be locked: No locks available"),
        locked(FileJob(tmp_path)),
    ):
        pass
