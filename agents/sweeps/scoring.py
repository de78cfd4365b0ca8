"""The score of a trial: the interquartile mean over its seeds of a value of the run."""

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


class UnknownMetricError(InputError):
    """A run has no column of the name of the metric."""


@dataclass(frozen=True)
class Metric:
    """A value of a run.

    Attributes:
        name: `last`, `best`, or the name of a column of `progress.csv`.
        column: The column that it is read from.
        minimize: Whether lower values are better.
        kind: The kind of training.
    """

    name: str
    column: str
    minimize: bool
    kind: TrainingKind

    @property
    def description(self) -> str:
        """The value in words."""
        return f"{'best' if self.name == BEST else 'last'} value of {self.column}"

    def read(self, run: Path) -> float:
        """Returns the value of a finished run.

        Raises:
            UnknownMetricError: the run has no such column.
            InputError: the column is empty, no episode ended, or the value is not finite.
        """
        value = self.read_until(run, math.inf)
        if value is None:
            columns = read_table(run / "progress.csv")[0]
            score = self.kind.score_metric  # missing while no episode has ended
            if score not in columns and _group(self.column) == _group(score):
                raise InputError(f"{run}: has no {self.column}, as no episode ended; raise {self.kind.length_key}")
            if self.column in columns:
                raise InputError(f"{run}: has no value of {self.column}; raise {self.kind.length_key}")
            raise UnknownMetricError(
                f"metric = {self.name!r}: not a column of {run}/progress.csv, which has {', '.join(columns)}."
                f"{did_you_mean(self.name, columns)} Choose another --metric and another --out."
            )
        if not math.isfinite(value):
            raise InputError(f"{run}: {self.column} = {value}: not finite")
        return value

    def read_until(self, run: Path, steps: float) -> float | None:
        """Returns the value of the first part of a run, which may be running; None if it has none yet."""
        rows = [row for row in read_table(run / "progress.csv")[1] if row.get(self.column)]
        values = [float(row[self.column]) for row in rows if float(row.get(self.kind.steps_metric) or 0) <= steps]
        if not values:
            return None
        if self.name == BEST:
            return min(values) if self.minimize else max(values)
        return values[-1]

    def steps(self, run: Path) -> float:
        """Returns the steps that a run, which may be running, has logged."""
        rows, column = read_table(run / "progress.csv")[1], self.kind.steps_metric
        return max((float(row[column]) for row in rows if row.get(column)), default=0.0)

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
        return Metric(name, kind.score_metric, kind.lower_is_better, kind)
    if "/" not in name:
        raise InputError(
            f"metric = {name!r}: must be last, best or a column of progress.csv, such as {kind.score_metric}."
            f"{did_you_mean(name, (LAST, BEST))}"
        )
    return Metric(name, name, minimize, kind)


def _group(column: str) -> str:
    return column.partition("/")[0]
