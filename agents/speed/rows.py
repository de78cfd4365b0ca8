"""The rows of the speed benchmark: measurements of this package beside those of a peer."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from ntm_rl.errors import InputError, did_you_mean

Measure = tuple[float, float, str]  # ours, peer, unit


class MissingPeerError(InputError):
    """The peer of a row is not installed."""

    def __init__(self, packages: str):
        super().__init__(f"the peer of this row is not installed; run: pip install {packages}")


@dataclass(frozen=True)
class Row:
    """Result of a comparison.

    Attributes:
        name: Name of the comparison.
        ours: Measurement of this package, median over the repeats.
        peer: Measurement of the peer.
        unit: Unit of both.
        ratio: `ours / peer`.
        goal: Goal of the ratio, such as ">= 8"; None: no goal.
        met: Whether the goal is met.
        threads: Number of torch threads.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    goal: str | None
    met: bool | None
    threads: int


@dataclass(frozen=True)
class Comparison:
    """A row to measure: `measure(repeats)` returns the values of this package and of the peer, and their unit."""

    measure: Callable[[int], Measure]
    sense: Literal["<=", ">="] = ">="
    goal: float | None = None
    threads: int = 1

    def row(self, name: str, repeats: int) -> Row:
        """Measures the row."""
        ours, peer, unit = self.measure(repeats)
        ratio, goal, met = ours / peer, None, None
        if self.goal is not None:
            goal, met = f"{self.sense} {self.goal:g}", ratio <= self.goal if self.sense == "<=" else ratio >= self.goal
        return Row(name, ours, peer, unit, ratio, goal, met, self.threads)


def measure(
    comparisons: Mapping[str, Comparison], only: str | None = None, repeats: int = 7, seconds: float | None = None
) -> Iterator[Row]:
    """Yields rows as they are measured; without a name, rows of missing peers are skipped.

    Args:
        comparisons: The comparisons by name.
        only: Name of a single row.
        repeats: Measurements per row.
        seconds: Time after which no other row is begun; None: no limit.

    Raises:
        InputError: unknown row.
        MissingPeerError: the peer of the named row is not installed.
    """
    if only is not None and only not in comparisons:
        raise InputError(
            f"only = {only!r}: unknown row; valid are {', '.join(comparisons)}.{did_you_mean(only, comparisons)}"
        )
    before, start = torch.get_num_threads(), time.monotonic()
    for name, comparison in comparisons.items():
        if only not in (None, name):
            continue
        if seconds is not None and time.monotonic() - start > seconds:
            print(f"note: {name} is skipped: the {seconds:g} s of the benchmark are over", file=sys.stderr)
            continue
        torch.set_num_threads(comparison.threads)
        try:
            row = comparison.row(name, repeats)
        except MissingPeerError as error:
            if only is not None:
                raise
            print(f"note: {name} is skipped: {error}", file=sys.stderr)
            continue
        yield row
    torch.set_num_threads(before)
