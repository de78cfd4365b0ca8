"""The comparison of the default core with the others on a suite whose scores are normalised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ntm_rl.agents import defaults
from ntm_rl.agents.benchmark.cells import Result
from ntm_rl.agents.benchmark.normalization import references
from ntm_rl.agents.benchmark.scores import (
    Interval,
    interquartile_means,
    mean_intervals,
    probability_of_improvement,
    read_curve,
    read_success_rate,
)
from ntm_rl.agents.benchmark.tables import complete

# A training has learned from this score on, and has forgotten if its score then falls by this much.
LEARNED, FORGOTTEN = 0.5, 0.2


class Forgetting(NamedTuple):
    """The score of the best epoch of a training, and that of its last 100 episodes."""

    best: float
    final: float


class Deficit(NamedTuple):
    """A task on which another core's interval lies above that of the default core, and the difference of the means."""

    task: str
    core: str
    difference: float


@dataclass(frozen=True)
class Comparison:
    """Comparison of the cores by normalised scores.

    Attributes:
        default: Name of the default core.
        final: Interquartile mean of each core over tasks and seeds, of the last epoch's mean return.
        best: The same of the MMER.
        improvement: Probability that the default core has a higher final score than each other core.
        tasks: Mean final score and interval by task and core, for at least two seeds.
        deficits: Tasks on which the default core is worse with intervals apart.
        forgotten: Trainings that forgot what they had learned, by run directory.
        successes: Success rates of the last epoch by task and core, one per seed; for tasks that report them.
    """

    default: str
    final: Mapping[str, Interval]
    best: Mapping[str, Interval]
    improvement: Mapping[str, Interval]
    tasks: Mapping[str, Mapping[str, Interval]]
    deficits: Sequence[Deficit]
    forgotten: Mapping[str, Forgetting]
    successes: Mapping[str, Mapping[str, Sequence[float]]]


def compare(results: Sequence[Result], out: Path) -> Comparison:
    """Compares the cores; means over all tasks need a core to have results for all of them.

    Raises:
        InputError: rliable is not installed, or the log of a run is damaged.
    """
    default = defaults.CORE
    final, best = complete(results, final_score), complete(results, best_score)
    others = [core for core in final if core != default and default in final]
    tasks = task_intervals(results)
    return Comparison(
        default,
        interquartile_means(final),
        interquartile_means(best),
        {core: probability_of_improvement(final[default], final[core]) for core in others},
        tasks,
        find_deficits(default, tasks),
        find_forgotten(results, out),
        success_rates(results, out),
    )


def final_score(result: Result) -> float:
    """Returns the normalised mean return of the last epoch."""
    return references()[result.task].score(result.last)


def best_score(result: Result) -> float:
    """Returns the normalised MMER."""
    return references()[result.task].score(result.mmer)


def task_intervals(results: Sequence[Result]) -> dict[str, dict[str, Interval]]:
    """Returns the mean final score and its interval by task and core, for at least two seeds."""
    scores: dict[tuple[str, str], list[float]] = {}
    for each in results:
        scores.setdefault((each.task, each.core), []).append(final_score(each))
    intervals: dict[str, dict[str, Interval]] = {}
    for (task, core), interval in mean_intervals(scores).items():
        intervals.setdefault(task, {})[core] = interval
    return intervals


def find_deficits(default: str, tasks: Mapping[str, Mapping[str, Interval]]) -> list[Deficit]:
    """Returns the tasks and cores whose interval lies above that of the default core."""
    return [
        Deficit(task, core, other.estimate - cores[default].estimate)
        for task, cores in tasks.items()
        for core, other in cores.items()
        if default in cores and other.low > cores[default].high
    ]


def find_forgotten(results: Sequence[Result], out: Path) -> dict[str, Forgetting]:
    """Returns the trainings whose last 100 episodes are far below the best epoch, although it was a good one."""
    found = {}
    for each in results:
        final = references()[each.task].score(float(read_curve(out / each.run).returns[-1]))
        best = best_score(each)
        if best >= LEARNED and best - final > FORGOTTEN:
            found[each.run] = Forgetting(best, final)
    return found


def success_rates(results: Sequence[Result], out: Path) -> dict[str, dict[str, list[float]]]:
    """Returns the success rates of the last epoch by task and core, for trainings that log them."""
    rates: dict[str, dict[str, list[float]]] = {}
    for each in results:
        rate = read_success_rate(out / each.run)
        if rate is not None:
            rates.setdefault(each.task, {}).setdefault(each.core, []).append(rate)
    return rates
