"""Markdown tables of tasks and results."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.benchmark.budgets import longest_episode, task_settings
from ntm_rl.agents.benchmark.cells import Result
from ntm_rl.agents.benchmark.normalization import references
from ntm_rl.agents.benchmark.suites import SuiteTask

NONE = "–"  # noqa: RUF001  (dash of an empty cell)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def task_table(tasks: Iterable[SuiteTask]) -> str:
    """Returns a table of tasks with their budgets and references."""
    return markdown(["task", "longest episode", "steps", "random play", "optimum"], map(_task_row, tasks))


def _task_row(task: SuiteTask) -> list[str]:
    described = describe_task(task)
    limit, mean = described["longest_episode"], described["random_return"]
    row = [task.name, NONE if limit is None else f"{limit:,}", f"{described['timesteps']:,}"]
    if mean is None:
        return [*row, NONE, NONE]
    return [*row, f"{mean:.3f}", f"{'' if described['is_exact'] else '≤ '}{described['optimum']:.4g}"]


def describe_task(task: SuiteTask) -> dict[str, Any]:
    """Returns the budget of a task, and its references or None, as JSON values."""
    settings = task_settings(task)
    reference = references().get(task.name) if task.is_generic else None
    optimum = None if reference is None else reference.optimum
    return {
        "task": task.name,
        "longest_episode": longest_episode(settings.env_settings),
        "timesteps": settings.total_timesteps,
        "random_return": None if reference is None else reference.random,
        "optimum": None if optimum is None else optimum.value,
        "is_exact": None if optimum is None else optimum.is_exact,
    }


def spread(values: Sequence[float], middle: Callable[[Sequence[float]], float] = np.mean, digits: int = 3) -> str:
    """Returns the mean, or another statistic, of values with their range."""
    if not values:
        return NONE
    text = f"{middle(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def complete(results: Sequence[Result], score: Callable[[Result], float]) -> dict[str, NDArray[np.float64]]:
    """Returns the scores `[seeds, tasks]` of each core that has results for all tasks.

    Only the seeds that are finished for all tasks of a core count.
    """
    tasks, seeds = tasks_of(results), seeds_of(results)
    scores = {(each.core, each.task, each.seed): score(each) for each in results}
    matrices = {}
    for core in cores_of(results):
        rows = [[scores.get((core, task, seed), np.nan) for task in tasks] for seed in seeds]
        matrix = np.array(rows)[~np.isnan(rows).any(axis=1)]
        if len(matrix):
            matrices[core] = matrix
    return matrices


def cells_of(results: Sequence[Result], task: str, core: str) -> list[Result]:
    """Returns the results of a task and a core."""
    return [each for each in results if (each.task, each.core) == (task, core)]


def tasks_of(results: Sequence[Result]) -> list[str]:
    """Returns the tasks that have results."""
    return list(dict.fromkeys(each.task for each in results))


def cores_of(results: Sequence[Result]) -> list[str]:
    """Returns the cores that have results."""
    return list(dict.fromkeys(each.core for each in results))


def seeds_of(results: Sequence[Result]) -> list[int]:
    """Returns the seeds that have results, sorted."""
    return sorted({each.seed for each in results})
