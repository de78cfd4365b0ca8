"""Predicts the speed of a data-parallel training from measured costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Line:
    """A duration that grows linearly: `constant + slope * amount` seconds."""

    constant: float
    slope: float

    @classmethod
    def fit(cls, amounts: Sequence[float], seconds: Sequence[float]) -> Self:
        """Fits a line by least squares; neither coefficient is negative."""
        slope, constant = np.polyfit(amounts, seconds, 1)
        if slope < 0:
            return cls(float(np.mean(seconds)), 0.0)
        if constant < 0:
            return cls(0.0, float(np.dot(amounts, seconds) / np.dot(amounts, amounts)))
        return cls(float(constant), float(slope))

    def at(self, amount: float) -> float:
        """Returns the seconds for an amount."""
        return self.constant + self.slope * amount


@dataclass(frozen=True)
class Sizes:
    """Sizes of a training over all ranks.

    Attributes:
        n_envs: Environments.
        n_steps: Steps of a rollout in each.
        n_epochs: Passes over a rollout.
        minibatches: Minibatches of a pass.
        sequences: Sequences of a minibatch.
        gradient_bytes: Bytes of the gradient, which every minibatch exchanges.
        small_exchanges: Exchanges of a few numbers in a rollout and its updates.
    """

    n_envs: float
    n_steps: int
    n_epochs: int
    minibatches: int
    sequences: float
    gradient_bytes: int
    small_exchanges: int

    @property
    def steps(self) -> float:
        """Environment steps of a rollout."""
        return self.n_envs * self.n_steps

    def times(self, factor: float) -> "Sizes":
        """Returns the sizes with `factor` times the environments in equally many minibatches."""
        return replace(self, n_envs=self.n_envs * factor, sequences=self.sequences * factor)


@dataclass(frozen=True)
class Costs:
    """Measured costs.

    Attributes:
        rollout_step: Seconds of a step of a rank's environments, by their number.
        update: Seconds of an update, by the rank's sequences in the minibatch.
        latency: Seconds of a message between two ranks.
        seconds_per_byte: Of a message.
    """

    rollout_step: Line
    update: Line
    latency: float = 0.0
    seconds_per_byte: float = 0.0

    def all_reduce(self, size: int, ranks: int) -> float:
        """Returns the seconds of a ring all-reduce, which sends 2 (P - 1) messages of 1 / P of the bytes."""
        return 2 * (ranks - 1) * (self.latency + size / ranks * self.seconds_per_byte)

    def of_link(self, ranks: int, times: Sequence[tuple[int, float]]) -> "Costs":
        """Returns the costs with the latency and rate that explain the times of all-reduces.

        Args:
            ranks: Number of ranks that measured.
            times: Bytes and seconds of each all-reduce.
        """
        sizes, seconds = zip(*times, strict=True)
        line, messages = Line.fit(sizes, seconds), 2 * (ranks - 1)
        return Costs(self.rollout_step, self.update, line.constant / messages, line.slope / messages * ranks)


@dataclass(frozen=True)
class Prediction:
    """Seconds of one rollout with its updates, and the speed.

    Attributes:
        ranks: Number of ranks.
        rollout: Seconds of the environments and the policy.
        update: Seconds of the updates' computation.
        exchange: Seconds of all exchanges.
        steps_per_second: Environment steps of all ranks per second.
    """

    ranks: int
    rollout: float
    update: float
    exchange: float
    steps_per_second: float


def predict(sizes: Sizes, costs: Costs, ranks: int) -> Prediction:
    """Predicts a training that `ranks` equal processes share, each on a core or device of its own."""
    updates = sizes.n_epochs * sizes.minibatches
    rollout = sizes.n_steps * costs.rollout_step.at(sizes.n_envs / ranks)
    update = updates * costs.update.at(sizes.sequences / ranks)
    exchange = updates * costs.all_reduce(sizes.gradient_bytes, ranks)
    exchange += sizes.small_exchanges * costs.all_reduce(0, ranks)
    return Prediction(ranks, rollout, update, exchange, sizes.steps / (rollout + update + exchange))
