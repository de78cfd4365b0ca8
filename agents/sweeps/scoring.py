"""The score of a trial: the interquartile mean over its seeds of a figure of the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntm_rl.agents.benchmark.scores import interquartile_mean
from ntm_rl.agents.settings.kinds import TrainingKind
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.errors import InputError, did_you_mean

LAST, BEST = "last", "best"


@dataclass(frozen=True)
class Metric:
    """A figure of a run.

    Attributes:
        name: `last`, `best`, or the name of a column of `progress.csv`.
        column: The column that it is read from.
        steps_column: The column of the steps.
        minimize: Whether lower values are better.
    """

    name: str
    column: str
    steps_column: str
    minimize: bool

    @property
    def description(self) -> str:
        """The figure in words."""
        return f"{'best' if self.name == BEST else 'last'} value of {self.column}"

    def read(self, run: Path) -> float:
        """Returns the figure of a finished run.

        Raises:
            InputError: the run has no such figure, or it is not finite.
        """
        value = self.read_until(run, math.inf)
        if value is None:
            columns = read_table(run / "progress.csv")[0]
            reason = "raise the length of the training" if self.column in columns else f"it has {', '.join(columns)}"
            raise InputError(f"{run}: has no value of {self.column}; {reason}")
        if not math.isfinite(value):
            raise InputError(f"{run}: {self.column} = {value}: not finite")
        return value

    def read_until(self, run: Path, steps: float) -> float | None:
        """Returns the figure of the first part of a run, which may be running; None if it has none yet."""
        rows = [row for row in read_table(run / "progress.csv")[1] if row.get(self.column)]
        values = [float(row[self.column]) for row in rows if float(row.get(self.steps_column) or 0) <= steps]
        if not values:
            return None
        if self.name == BEST:
            return min(values) if self.minimize else max(values)
        return values[-1]

    def steps(self, run: Path) -> float:
        """Returns the steps that a run, which may be running, has logged."""
        rows = read_table(run / "progress.csv")[1]
        return max((float(row[self.steps_column]) for row in rows if row.get(self.steps_column)), default=0.0)

    def score(self, values: Sequence[float]) -> float:
        """Returns the interquartile mean of values: a quarter of them is dropped at either end, rounded down."""
        return float(interquartile_mean(np.array(values))[0])


def make_metric(name: str, kind: TrainingKind, *, minimize: bool = False) -> Metric:
    """Returns a metric.

    Args:
        name: `last` or `best`, of the score of the kind of training, or the name of a column of `progress.csv`.
        kind: The kind of training.
        minimize: Whether lower values of that column are better.

    Raises:
        InputError: an unknown name, or `minimize` with a score whose direction is known.
    """
    if name in (LAST, BEST):
        if minimize:
            raise InputError(f"--minimize: the direction of --metric {name} is known; leave it out")
        return Metric(name, kind.score_metric, kind.steps_metric, kind.lower_is_better)
    if "/" not in name:
        raise InputError(
            f"metric = {name!r}: must be last, best or a column of progress.csv, such as {kind.score_metric}."
            f"{did_you_mean(name, (LAST, BEST))}"
        )
    return Metric(name, name, kind.steps_metric, minimize)
