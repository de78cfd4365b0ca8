"""Scores of trainings: POPGym's MMER, and rliable's statistics with stratified bootstrap intervals."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.errors import InputError

FloatArray = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)
RETURN, STEPS, SPEED, SUCCESS = PPO.score_metric, PPO.steps_metric, "time/fps", "rollout/success_rate"
EPOCH = 65_536  # environment steps per epoch in POPGym
BOOTSTRAP_SEED, BOOTSTRAP_SAMPLES = 0, 5000


class Curve(NamedTuple):
    """Learning curve: environment steps `[R]` and mean return of the last episodes `[R]` after each rollout."""

    steps: FloatArray
    returns: FloatArray


class Interval(NamedTuple):
    """An estimate and its 95% interval."""

    estimate: float
    low: float
    high: float


def read_curve(run: Path) -> Curve:
    """Reads the learning curve of a run.

    Raises:
        InputError: no episode ended.
    """
    curve = _read(run, RETURN)
    if curve is None:
        raise InputError(f"{run}: no episode ended in this training; raise timesteps")
    return curve


def read_success_rate(run: Path) -> float | None:
    """Returns the mean success rate of the last epoch of a run; None if the environment does not report successes."""
    rates = _read(run, SUCCESS)
    return None if rates is None else float(epoch_returns(rates)[-1])


def _read(run: Path, metric: str) -> Curve | None:
    rows = [row for row in read_table(run / "progress.csv")[1] if row.get(metric)]
    if not rows:
        return None
    return Curve(np.array([float(row[STEPS]) for row in rows]), np.array([float(row[metric]) for row in rows]))


def read_speed(run: Path) -> float:
    """Returns the median of the logged environment steps per second of a run."""
    speeds = [float(row[SPEED]) for row in read_table(run / "progress.csv")[1] if row.get(SPEED)]
    return float(np.median(speeds)) if speeds else float("nan")


def epoch_returns(curve: Curve) -> FloatArray:
    """Returns the mean return of each epoch: equal parts of the training of about 65,536 steps, as in POPGym.

    Rollouts are shorter than POPGym's epochs, and a maximum over means of fewer episodes would be higher.
    """
    last = curve.steps[-1]
    epochs = max(1, round(last / EPOCH))
    numbers = np.ceil(curve.steps / last * epochs - 1e-9).astype(np.int64)
    return np.array([curve.returns[numbers == number].mean() for number in np.unique(numbers)])


def mmer(curve: Curve) -> float:
    """Returns the maximum over training of the mean episodic return per epoch (Morad et al. 2023, section 5)."""
    return float(epoch_returns(curve).max())


def interquartile_means(scores: Mapping[str, Any]) -> dict[str, Interval]:
    """Returns the interquartile mean over seeds and tasks of each core.

    Args:
        scores: Scores of each core, `[seeds, tasks]`.

    Raises:
        InputError: rliable is not installed.
    """
    matrices = {core: np.asarray(each, dtype=np.float64) for core, each in scores.items()}
    return {core: intervals[0] for core, intervals in _intervals(matrices, interquartile_mean).items()}


def interquartile_mean(scores: FloatArray) -> FloatArray:
    """Returns rliable's `aggregate_iqm`, `[1]`, ten times as fast as SciPy's `trim_mean` there."""
    ordered = np.sort(scores, axis=None)
    dropped = ordered.size // 4  # at either end
    return np.array([ordered[dropped : ordered.size - dropped].mean()])


def probability_of_improvement(scores: FloatArray, others: FloatArray) -> Interval:
    """Returns the probability that a score is above another's on the same task, averaged over tasks.

    This is rliable's metric of this name, which takes minutes for many tasks.

    Args:
        scores: Scores `[seeds, tasks]`.
        others: Scores of the other core, `[other seeds, tasks]`.

    Raises:
        InputError: rliable is not installed.
    """

    def probability(first: FloatArray, second: FloatArray) -> FloatArray:
        return np.array([(1 + np.sign(first[:, None] - second).mean()) / 2])  # a tie counts as half

    return _intervals({"": [scores, others]}, probability)[""][0]


def mean_intervals(scores: Mapping[Key, Sequence[float]]) -> dict[Key, Interval]:
    """Returns the means of groups of scores; groups of a single score, which have no interval, are left out.

    Raises:
        InputError: rliable is not installed.
    """
    intervals: dict[Key, Interval] = {}
    for seeds in {len(each) for each in scores.values()} - {1}:
        keys = [key for key, each in scores.items() if len(each) == seeds]
        matrix = np.array([scores[key] for key in keys]).T  # [seeds, groups]
        intervals |= zip(keys, _intervals({"": matrix}, lambda each: each.mean(axis=0))[""], strict=True)
    return {key: intervals[key] for key in scores if key in intervals}


def _intervals(scores: Mapping[str, Any], statistics: Callable[..., FloatArray]) -> dict[str, list[Interval]]:
    """Returns the statistics of each entry with 95% intervals of a bootstrap over the seeds of each task.

    Args:
        scores: Scores `[seeds, tasks]`, or a list of several such arrays.
        statistics: Function of one or several such arrays that returns `[S]`.
    """
    library = require_rliable()
    before = np.random.get_state()
    np.random.seed(BOOTSTRAP_SEED)  # rliable always uses NumPy's global generator
    try:
        values, intervals = library.get_interval_estimates(scores, statistics, reps=BOOTSTRAP_SAMPLES)
    finally:
        np.random.set_state(before)
    rows = {key: np.stack([values[key], *intervals[key]], axis=1) for key in scores}  # [S, 3]
    return {key: [Interval(*map(float, row)) for row in each] for key, each in rows.items()}


def require_rliable() -> Any:
    """Returns the module `rliable.library` (Agarwal et al. 2021, arXiv:2108.13264).

    Raises:
        InputError: rliable is not installed.
    """
    try:
        return import_module("rliable.library")
    except ImportError as error:
        raise InputError(
            f'the report needs rliable, which cannot be imported ({error}); run: pip install "ntm-rl[stats]"'
        ) from error
