"""The engines of one machine, on jobs that need no training."""

import time

import pytest

from file_jobs import FileJob
from ntm_rl.agents.engines.jobs import Outcome, locked, take_free
from ntm_rl.agents.engines.local import ProcessEngine, local_engine
from ntm_rl.errors import InputError
from waiting import wait_until


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
            wait_until(lambda job=job: job.processes())
        time.sleep(0.2)
        engine.stop(jobs[1])
        assert end_of(engine, jobs[1]) is Outcome.STOPPED
        assert engine.wait(0) == []
        engine.stop()
        assert end_of(engine, jobs[0]) is Outcome.STOPPED


def test_a_killed_process_is_restarted_and_then_has_failed(tmp_path):
    job, log = FileJob(tmp_path, "die"), tmp_path / "log"
    with ProcessEngine(1, restarts=1, log=log) as engine:
        engine.submit(job)
        assert [engine.wait(60) for _ in range(2)] == [[], [(job, Outcome.FAILED)]]
    assert log.read_text() == "die: its process was ended by SIGKILL\n" * 2 and len(job.processes()) == 2


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *arguments: (_ for _ in ()).throw(OSError(37, "No locks available")))
    with (
        pytest.raises(InputError, match=r"\.write\.lock: cannot be locked: No locks available"),
        locked(FileJob(tmp_path)),
    ):
        pass
