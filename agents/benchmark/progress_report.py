"""The sections of a report that show scores by environment steps and by wall-clock time."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntm_rl.agents.benchmark.cells import Result
from ntm_rl.agents.benchmark.scores import RETURN, STEPS, FloatArray
from ntm_rl.agents.benchmark.suites import SuiteTask, find_suite
from ntm_rl.agents.benchmark.tables import NONE, cells_of, cores_of, markdown, spread, tasks_of
from ntm_rl.agents.tracking.csv_log import read_table

ELAPSED = "time/time_elapsed"
PARTS = 4  # of the budget, after each of which the scores are shown


class Progress(NamedTuple):
    """Environment steps, seconds of training and mean return of the last 100 episodes after each rollout, `[R]`."""

    steps: FloatArray
    seconds: FloatArray
    returns: FloatArray


def read_progress(run: Path) -> Progress:
    """Reads the log of a run; the seconds of resumed trainings add up."""
    rows = [row for row in read_table(run / "progress.csv")[1] if row.get(RETURN)]
    steps, elapsed, returns = (np.array([float(row[key]) for row in rows]) for key in (STEPS, ELAPSED, RETURN))
    gained = np.diff(elapsed, prepend=0)
    gained = np.where(gained < 0, elapsed, gained)  # a resumed training counts from 0
    return Progress(steps, gained.cumsum(), returns)


def progress_sections(suite: str, results: Sequence[Result], out: Path) -> Iterable[str]:
    """Yields the sections of a suite."""
    tasks = {task.name: task for task in find_suite(suite).tasks}
    groups = [
        (tasks[task], core, [read_progress(out / each.run) for each in cells_of(results, task, core)])
        for task in tasks_of(results)
        for core in cores_of(results)
    ]
    groups = [group for group in groups if group[2]]
    yield "## By steps"
    yield (
        "Mean return of the last 100 episodes after each quarter of the training, the median of the seeds with their "
        "range in brackets."
    )
    quarters = [f"{part}/{PARTS}" for part in range(1, PARTS + 1)]
    yield markdown(["task", "core", "steps", *quarters], (_steps_row(*group) for group in groups))
    yield "## By time"
    yield (
        "Hours of the whole training, and minutes until the mean return of the last 100 episodes reaches the goal; the "
        "median of the seeds with their range in brackets."
    )
    yield markdown(["task", "core", "hours", "goal", "minutes to the goal"], (_time_row(*group) for group in groups))


def _steps_row(task: SuiteTask, core: str, runs: Sequence[Progress]) -> list[str]:
    total = min(run.steps[-1] for run in runs)
    points = total * np.arange(1, PARTS + 1) / PARTS
    scores = np.array([np.interp(points, run.steps, run.returns) for run in runs])  # [seeds, PARTS]
    return [task.name, core, f"{total:,.0f}", *(_spread(column) for column in scores.T)]


def _time_row(task: SuiteTask, core: str, runs: Sequence[Progress]) -> list[str]:
    hours = _spread([run.seconds[-1] / 3600 for run in runs])
    if task.goal is None:
        return [task.name, core, hours, NONE, NONE]
    reached = [run.seconds[np.argmax(run.returns >= task.goal)] / 60 for run in runs if run.returns.max() >= task.goal]
    missed = len(runs) - len(reached)
    note = f"{'; ' if reached else ''}not reached by {missed} of {len(runs)}" if missed else ""
    return [task.name, core, hours, f"{task.goal:g}", (_spread(reached) if reached else "") + note]


def _spread(values: Sequence[float] | FloatArray) -> str:
    return spread([float(value) for value in values], lambda each: float(np.median(each)), digits=2)
