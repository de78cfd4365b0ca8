"""Sweeps whose trainings are computed at once instead of trained."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntm_rl.agents.engines.jobs import Engine, Job, Outcome
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import AnySettings, load_settings
from ntm_rl.agents.sweeps.plan import Plan, make_plan
from ntm_rl.agents.sweeps.seed_job import SeedResult

COLUMNS = "time/total_timesteps,rollout/ep_rew_mean"


@dataclass
class Trained:
    """The part of a `TrainingResult` that a sweep reads."""

    run: Path
    stopped_by: None = None


def write_run(settings: AnySettings, config: str, returns: Sequence[float]) -> Trained:
    """Makes a run whose learning curve has the given returns at equal distances."""
    run = Run.create(settings, config)
    total = settings.total_steps
    rows = [f"{total * number // len(returns)},{value}" for number, value in enumerate(returns, 1)]
    (run.path / "progress.csv").write_text("\n".join([COLUMNS, *rows, ""]))
    return Trained(run.path)


def peak_at(rate: float) -> Callable[..., Trained]:
    """Returns a training whose return is highest at a learning rate, and a little higher for later seeds."""

    def train(settings: Any, config: str, *, show_progress: bool) -> Trained:
        value = 100 - 10 * abs(math.log10(settings.ppo.learning_rate / rate)) + settings.seed
        return write_run(settings, config, [value / 2, value])

    return train


def tiny_plan(tmp_path: Path, space: str, *overrides: str, **options: Any) -> Plan:
    """Returns the plan of a sweep of CartPole with a space given as YAML."""
    file = tmp_path / "space.yaml"
    file.write_text(space)
    return make_plan(
        "CartPole-v1", str(file), ["core=lstm", "total_timesteps=900", "wandb=disabled", *overrides], **options
    )


class SteppedEngine(Engine):
    """Trains jobs in steps of a ninth, each job to the value of a function; two at a time.

    Args:
        value: Maps settings and the part of the training that is done to a return.
    """

    def __init__(self, value: Callable[[AnySettings, float], float]):
        self._value, self._runs, self._stopped = value, dict[Job, tuple[AnySettings, Path, int]](), set[Job]()
        self.steps = 0

    @property
    def capacity(self) -> int:
        return 2

    def submit(self, job: Any) -> None:
        settings = load_settings(str(job.config), job.overrides).model_copy(update={"run_dir": str(job.folder.parent)})
        run = write_run(settings, job.folder.name, [])
        self._runs[job] = settings, run.run, 0

    def wait(self, seconds: float) -> Sequence[tuple[Job, Outcome]]:
        ended: list[tuple[Job, Outcome]] = [(job, Outcome.STOPPED) for job in self._stopped]
        for job, _ in ended:
            del self._runs[job]
        self._stopped.clear()
        for job, (settings, run, done) in list(self._runs.items()):
            self.steps += 1
            value = self._value(settings, (done + 1) / 9)
            with (run / "progress.csv").open("a") as file:
                file.write(f"{settings.total_steps * (done + 1) // 9},{value}\n")
            self._runs[job] = settings, run, done + 1
            if done + 1 == 9:
                job.write_result(SeedResult(settings.seed, value, run=run.name))  # type: ignore[attr-defined]
                del self._runs[job]
                ended.append((job, Outcome.FINISHED))
        return ended

    def stop(self, job: Job | None = None) -> None:
        self._stopped |= {each for each in self._runs if job in (None, each)}
