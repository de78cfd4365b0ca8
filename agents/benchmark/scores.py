"""Scores of trainings: POPGym's MMER, and rliable's interquartile mean."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.errors import InputError

FloatArray = NDArray[np.float64]
RETURN, STEPS, SPEED = PPO.score_metric, PPO.steps_metric, "time/fps"
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
    rows = [row for row in read_table(run / "progress.csv")[1] if row.get(RETURN)]
    if not rows:
        raise InputError(f"{run}: no episode ended in this training; raise timesteps")
    return Curve(np.array([float(row[STEPS]) for row in rows]), np.array([float(row[RETURN]) for row in rows]))


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


def interquartile_means(scores: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Interval]:
    """Returns the interquartile mean over seeds and tasks of each core, with a stratified bootstrap interval.

    Args:
        scores: Scores of each core, `[seeds, tasks]`.

    Raises:
        InputError: rliable is not installed.
    """
    library, metrics = require_rliable()
    before = np.random.get_state()
    np.random.seed(BOOTSTRAP_SEED)  # rliable always uses NumPy's global generator
    try:
        means, intervals = library.get_interval_estimates(
            {core: np.asarray(each) for core, each in scores.items()},
            lambda each: np.array([metrics.aggregate_iqm(each)]),
            reps=BOOTSTRAP_SAMPLES,
        )
    finally:
        np.random.set_state(before)
    return {core: Interval(float(means[core][0]), *map(float, intervals[core][:, 0])) for core in scores}


def require_rliable() -> tuple[Any, Any]:
    """Returns rliable's modules `library` and `metrics` (Agarwal et al. 2021, arXiv:2108.13264).

    Raises:
        InputError: rliable is not installed.
    """
    try:
        return import_module("rliable.library"), import_module("rliable.metrics")
    except ImportError as error:
        raise InputError(
            f'the report needs rliable, which cannot be imported ({error}); run: pip install "ntm-rl[stats]"'
        ) from error
