"""Runs the trials of a sweep on an engine."""

import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from optuna.trial import TrialState

from ntm_rl.agents.engines.jobs import Engine
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.sweeps.active_trial import ActiveTrial
from ntm_rl.agents.sweeps.pictures import draw_pictures
from ntm_rl.agents.sweeps.plan import Plan
from ntm_rl.agents.sweeps.results import TABLE, Summary, write_results
from ntm_rl.agents.sweeps.scoring import UnknownMetricError
from ntm_rl.agents.sweeps.storage import explained
from ntm_rl.agents.sweeps.study import SweepStudy
from ntm_rl.errors import InputError

POLL_SECONDS = 0.5
Log = Callable[[str], None]


def run_sweep(
    plan: Plan,
    out: Path,
    n_trials: int,
    engine: Engine,
    *,
    storage: str | None = None,
    command: str = "ntm-rl sweep",
    log: Log = lambda line: None,
) -> tuple[Summary, signal.Signals | None]:
    """Runs the trials of a sweep until `n_trials` are finished, by this and all other processes that share the sweep.

    On SIGINT or SIGTERM the running trainings stop with a checkpoint; the same call continues them.

    Args:
        plan: What the sweep varies, trains and measures.
        out: The sweep's folder, which all processes share.
        n_trials: Number of trials in total.
        engine: Runs the trainings; entered here, before the folder is made.
        storage: See `describe_storage`.
        command: Command line of the sweep, for a comment.
        log: Called with a line for every finished trial.

    Returns:
        The results, and the signal that stopped the sweep, if any.

    Raises:
        InputError: another sweep in the folder or storage, a storage that cannot be used, an unknown metric, fewer
            trials than are finished, or all trials failed.
    """
    if n_trials < 1:
        raise InputError(f"trials = {n_trials}: must be at least 1")
    with engine, closing(SweepStudy(plan, out, storage)) as sweep, explained(sweep.storage):
        sweep.check_trials(n_trials)
        if len(sweep.finished_trials()) == n_trials:
            log(f"{n_trials} trials are finished already; raise --trials to continue")
        with SignalListener() as listener, closing(_Loop(sweep, n_trials, engine, listener, command, log)) as loop:
            while loop.step():
                pass
        summary = write_results(sweep, command)
        for note in draw_pictures(sweep.study, sweep.out):
            log(note)
    if listener.received is None and summary.failed and not summary.complete + summary.pruned:
        failed = "the only trial failed" if summary.failed == 1 else f"all {summary.failed} trials failed"
        first = "error" if summary.failed == 1 else "first error"
        raise InputError(f"out = {str(sweep.out)!r}: {failed}, see {TABLE}; the {first} is: {summary.error}")
    return summary, listener.received


class _Loop:
    """The trials of this process."""

    def __init__(
        self, sweep: SweepStudy, n_trials: int, engine: Engine, listener: SignalListener, command: str, log: Log
    ):
        self._sweep, self._n_trials, self._engine, self._listener = sweep, n_trials, engine, listener
        self._command, self._log = command, log
        self._active: list[ActiveTrial] = []
        self._is_stopping = False

    def step(self) -> bool:
        """Submits what the engine has room for and waits for a moment; returns whether anything is left to do."""
        if self._listener.received is not None and not self._is_stopping:
            self._is_stopping = True
            self._engine.stop()
        if not self._is_stopping:
            self._submit()
        self._release_ended()
        if self._n_running == 0 and (self._is_stopping or self._is_done):
            return False
        for job, outcome in self._engine.wait(POLL_SECONDS):
            trial = next(each for each in self._active if job in each.running)
            trial.end(next(each for each in trial.running if each == job), outcome)
        for trial in self._active:
            if self._sweep.plan.pruner == "hyperband" and not self._is_stopping:
                trial.compare_curves()
            if trial.state is not TrialState.RUNNING:
                for job in trial.running:
                    self._engine.stop(job)
        return True

    def close(self) -> None:
        """Leaves the trials without a result to other processes, or to the next call."""
        for trial in self._active:
            trial.release()

    @property
    def _is_done(self) -> bool:
        return not self._active and self._sweep.is_done(self._n_trials)

    @property
    def _n_running(self) -> int:
        return sum(len(trial.running) for trial in self._active)

    def _submit(self) -> None:
        while self._n_running < self._engine.capacity:
            job = next((job for trial in self._active if (job := trial.take()) is not None), None)
            if job is not None:
                self._engine.submit(job)
            elif any(trial.is_waiting for trial in self._active):
                return  # for a training that is still stopping in another process
            else:
                owned = self._sweep.next_trial(self._n_trials)
                if owned is None:
                    return
                try:
                    self._active.append(ActiveTrial(self._sweep, owned))
                except UnknownMetricError:
                    owned.release()
                    raise

    def _release_ended(self) -> None:
        """Reports and releases the trials that have a result."""
        ended = [trial for trial in self._active if trial.is_ended]
        self._active = [trial for trial in self._active if not trial.is_ended]
        for trial in ended:
            trial.release()
        if ended:
            summary = write_results(self._sweep, self._command)
            draw_pictures(self._sweep.study, self._sweep.out)
        for trial in ended:
            done = summary.complete + summary.pruned + summary.failed
            best = "" if summary.best is None else f"; the best is trial {summary.best} with {summary.score:g}"
            self._log(f"trial {trial.number}: {trial.result} ({done} of {self._n_trials} are finished{best})")
