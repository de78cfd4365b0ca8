"""The part of the report that compares the default core with the others by normalised scores."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ntm_rl.agents.benchmark.cells import Result
from ntm_rl.agents.benchmark.comparison import FORGOTTEN, LEARNED, Comparison, final_score
from ntm_rl.agents.benchmark.scores import Interval
from ntm_rl.agents.benchmark.suites import find_suite
from ntm_rl.agents.benchmark.tables import NONE, cells_of, cores_of, markdown, spread, task_table, tasks_of


def normalized_sections(suite: str, results: Sequence[Result], comparison: Comparison) -> Iterable[str]:
    """Yields the paragraphs of the report."""
    yield "## Tasks"
    yield (
        "Steps by the rule of the suite (those of the trainings are under Size and speed), mean return of random play, "
        "and the optimum or an upper bound (≤) of it."
    )
    names = tasks_of(results)
    yield task_table(task for task in find_suite(suite).tasks if task.name in names)
    yield "## Normalised scores"
    yield (
        "Mean return of the last epoch of about 65,536 steps, as (return - random) / (optimum - random). Median over "
        "seeds, with the lowest and highest seed in brackets."
    )
    yield _scores(results, comparison)
    yield from _over_all_tasks(comparison)
    yield from _deficits(comparison)
    yield from _successes(results, comparison)
    yield from _forgotten(results, comparison)


def _scores(results: Sequence[Result], comparison: Comparison) -> str:
    cores = cores_of(results)
    worse: dict[str, list[str]] = {}
    for deficit in comparison.deficits:
        worse.setdefault(deficit.task, []).append(deficit.core)
    rows = []
    for task in tasks_of(results):
        values = [[final_score(each) for each in cells_of(results, task, core)] for core in cores]
        rows.append([task, *(spread(each, np.median) for each in values), ", ".join(worse.get(task, []))])
    return markdown(["task", *cores, f"above {comparison.default}, intervals apart"], rows)


def _over_all_tasks(comparison: Comparison) -> Iterable[str]:
    if not comparison.final:
        return
    yield "## Over all tasks"
    yield (
        "Interquartile mean of the normalised scores over tasks and seeds at the end of training and in the best epoch "
        "(MMER), and the probability that the default core has the higher score at the end; with stratified bootstrap "
        "95% intervals (rliable; Agarwal et al. 2021)."
    )
    columns = (comparison.final, comparison.best, comparison.improvement)
    rows = [[core, *(_with_interval(each, core) for each in columns)] for core in comparison.final]
    yield markdown(["core", "end of training", "best epoch", f"{comparison.default} is better"], rows)


def _deficits(comparison: Comparison) -> Iterable[str]:
    yield f"## Tasks on which {comparison.default} is worse"
    yield (
        "The bootstrap 95% intervals of the mean scores are apart. With three seeds these are the ranges, and of two "
        "equal cores the first is below the second in one of 20 tasks."
    )
    if comparison.deficits:
        rows = [[each.task, each.core, f"{each.difference:.3f}"] for each in comparison.deficits]
        yield markdown(["task", "better core", "difference"], rows)
    else:
        yield "None."


def _successes(results: Sequence[Result], comparison: Comparison) -> Iterable[str]:
    if not comparison.successes:
        return
    cores = cores_of(results)
    yield "## Success rates"
    yield "Share of successful episodes in the last epoch, with actions sampled: median and range over seeds."
    rows = [
        [task, *(spread(rates.get(core, []), np.median) for core in cores)]
        for task, rates in comparison.successes.items()
    ]
    yield markdown(["task", *cores], rows)


def _forgotten(results: Sequence[Result], comparison: Comparison) -> Iterable[str]:
    yield "## Trainings that forgot"
    yield (
        f"The best epoch scored at least {LEARNED}, and the last 100 episodes more than {FORGOTTEN} less "
        f"({len(comparison.forgotten)} of {len(results)} trainings)."
    )
    if comparison.forgotten:
        seeds = {each.run: [each.task, each.core, str(each.seed)] for each in results}
        rows = [[*seeds[run], f"{each.best:.3f}", f"{each.final:.3f}"] for run, each in comparison.forgotten.items()]
        yield markdown(["task", "core", "seed", "best epoch", "last 100 episodes"], rows)


def _with_interval(intervals: Mapping[str, Interval], core: str) -> str:
    if core not in intervals:
        return NONE
    each = intervals[core]
    return f"{each.estimate:.3f} ({each.low:.3f} to {each.high:.3f})"
