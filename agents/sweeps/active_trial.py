"""A trial that this process trains: its seeds, its intermediate values and its result."""

import warnings
from typing import Any

from optuna.trial import TrialState

from ntm_rl.agents.engines.jobs import Job, Outcome, take_free
from ntm_rl.agents.settings.errors import ConfigError
from ntm_rl.agents.settings.loading import validate
from ntm_rl.agents.settings.yaml_text import to_yaml_text
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.agents.sweeps.sampling import RUNGS
from ntm_rl.agents.sweeps.scoring import UnknownMetricError
from ntm_rl.agents.sweeps.seed_job import SeedJob, SeedResult
from ntm_rl.agents.sweeps.study import OwnedTrial, SweepStudy

MAX_CRASHES = 3  # trainings of a seed that end without a result, such as one that the system kills for its memory
ERROR, VALUES = "error", "values"  # attributes of a trial


class ActiveTrial:
    """A trial that this process trains.

    Args:
        sweep: The sweep.
        owned: The trial.

    Attributes:
        number: Number of the trial.
        state: RUNNING until there is a result.
        result: The result in words.
        running: The trainings that an engine runs.
    """

    def __init__(self, sweep: SweepStudy, owned: OwnedTrial):
        self._sweep, self._owned, self._trial = sweep, owned, owned.trial
        self.number, self.state, self.result = owned.trial.number, TrialState.RUNNING, ""
        self.running: list[SeedJob] = []
        self._waiting: list[Job] = []
        self._jobs: list[SeedJob] = []
        self._crashes: dict[str, int] = {}
        self._reported = set(sweep.study.get_trials(deepcopy=False)[self.number].intermediate_values)
        values = sweep.plan.space.suggest(self._trial)
        try:
            data = sweep.plan.trial_data(values)
        except ConfigError as error:
            self._fail(str(error))
            return
        self._total_steps = validate(data, "trial").total_steps
        self._jobs = self._make_jobs(data)
        self._waiting += [job for job in self._jobs if not job.is_finished()]
        for job in self._jobs:
            self._count(job)

    def _make_jobs(self, data: dict[str, Any]) -> list[SeedJob]:
        """Writes the config of the trial and returns its trainings."""
        plan, folder = self._sweep.plan, self._owned.folder
        config = folder.with_name(f"{folder.name}.yaml")
        write_atomically(config, to_yaml_text(data).encode())
        group = plan.settings.tracking.group or self._sweep.study.study_name
        first = plan.settings.seed
        return [
            SeedJob(folder, config, (f"seed={seed}", f"tracking.group={group}"), seed, plan.metric)
            for seed in range(first, first + plan.seeds)
        ]

    @property
    def is_waiting(self) -> bool:
        """Whether a training can be submitted, or is still stopping in another process."""
        return self.state is TrialState.RUNNING and bool(self._waiting)

    @property
    def is_ended(self) -> bool:
        """Whether the trial has a result, and none of its trainings runs."""
        return self.state is not TrialState.RUNNING and not self.running

    def take(self) -> SeedJob | None:
        """Returns a training to submit, if there is one that no process runs."""
        job = take_free(self._waiting) if self.is_waiting else None
        if job is None:
            return None
        assert isinstance(job, SeedJob)
        self.running.append(job)
        return job

    def end(self, job: SeedJob, outcome: Outcome) -> None:
        """Takes the outcome of a training."""
        self.running.remove(job)
        if self.state is not TrialState.RUNNING:
            return
        if outcome is Outcome.FAILED:
            self._crashes[job.name] = self._crashes.get(job.name, 0) + 1
            if self._crashes[job.name] == MAX_CRASHES:
                error = f"seed {job.seed}: its process ended {MAX_CRASHES} times without a result"
                job.write_result(SeedResult(job.seed, None, error))
        if job.is_finished():
            self._count(job)
        else:
            self._waiting.append(job)

    def release(self) -> None:
        """Leaves the trial to other processes."""
        self._owned.release()

    def compare_curves(self) -> None:
        """Prunes the trial if its learning curve is worse than those of others (Hyperband).

        The curve is the score over the seeds that have started: with fewer jobs than seeds, the first ones.
        """
        metric = self._sweep.plan.metric
        runs = [job.run_folder for job in self._jobs if job in self.running or job.is_finished()]
        steps = min((0.0 if run is None else metric.steps(run) for run in runs), default=0.0)
        for rung in range(1, RUNGS):
            end = self._total_steps * rung / RUNGS
            if self.state is not TrialState.RUNNING or steps < end:
                return
            values = [metric.read_until(run, end) for run in runs if run is not None]
            known = [value for value in values if value is not None]
            if len(known) == len(values):  # at first, no episode may have ended
                self._report(metric.score(known), rung)

    def _count(self, job: SeedJob) -> None:
        """Takes the result of a training, if it has one, and ends the trial if it was the last or failed.

        Raises:
            UnknownMetricError: neither this training nor another trial has the metric.
        """
        result = job.result()
        if result is None or self.state is not TrialState.RUNNING:
            return
        if result.is_metric_unknown and not self._sweep.has_complete_trial:
            raise UnknownMetricError(result.error)
        if result.value is None:
            self._fail(result.error or "unknown error")
            return
        if self._sweep.plan.pruner == "wilcoxon":
            self._report(result.value, job.seed - self._sweep.plan.settings.seed)
        if all(each.is_finished() for each in self._jobs):
            self._complete()

    def _report(self, value: float, step: int) -> None:
        """Reports an intermediate value, and prunes the trial if some of its trainings are unfinished."""
        if step in self._reported:
            return
        self._reported.add(step)
        self._trial.report(value, step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about trials that cannot be compared
            if not all(each.is_finished() for each in self._jobs) and self._trial.should_prune():
                self._tell(TrialState.PRUNED, "pruned")

    def _complete(self) -> None:
        values = [result.value for job in self._jobs if (result := job.result()) and result.value is not None]
        self._trial.set_user_attr(VALUES, values)
        score = self._sweep.plan.metric.score(values)
        self._tell(TrialState.COMPLETE, f"{score:g}", score)

    def _fail(self, error: str) -> None:
        line = "; ".join(error.splitlines())
        self._trial.set_user_attr(ERROR, line)
        self._tell(TrialState.FAIL, f"failed: {line}")

    def _tell(self, state: TrialState, result: str, score: float | None = None) -> None:
        self._sweep.study.tell(self.number, score, state=state, skip_if_finished=True)
        self.state, self.result = state, result
