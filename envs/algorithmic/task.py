"""The base class of algorithmic tasks: generators of input and target sequences."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.errors import InputError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Difficulty = dict[str, int]
MAX_DIFFICULTY = 100_000  # largest length or number of repeats, so that a sequence fits into memory


class Episode(NamedTuple):
    """One sequence.

    Attributes:
        inputs: `[T, I]`.
        targets: `[T, O]` of 0 and 1, 0 outside the mask.
        mask: `[T]`, true in answer steps.
    """

    inputs: FloatArray
    targets: FloatArray
    mask: BoolArray


class Batch(NamedTuple):
    """A batch of sequences, time-major; shorter ones are padded with zeros outside the mask.

    Attributes:
        inputs: `[T, B, I]`.
        targets: `[T, B, O]` of 0 and 1.
        mask: `[T, B]`, true in answer steps.
    """

    inputs: FloatArray
    targets: FloatArray
    mask: BoolArray


class AlgorithmicTask(ABC):
    """A generator of sequences whose difficulty is a dict of integers, such as `{"length": 20}`.

    Attributes:
        input_size: I, the number of input channels.
        output_size: O, the number of output bits.
        ranges: The smallest and largest training value of each number of the difficulty.
        input_low: Smallest input of each channel, `[I]`.
        input_high: Largest input of each channel, `[I]`.
        biased_fraction: Fraction of the sequences whose bits are 1 with a probability drawn uniformly for the sequence
            instead of 1/2, so that nearly empty and nearly full vectors are common.
    """

    input_size: int
    output_size: int
    ranges: Mapping[str, tuple[int, int]]
    biased_fraction: float = 0.0

    @abstractmethod
    def generate(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """Generates a sequence of a difficulty, which may lie outside `ranges`."""

    @property
    def input_low(self) -> FloatArray:
        """See the class; 0 by default, as most inputs are bits."""
        return np.zeros(self.input_size, dtype=np.float32)

    @property
    def input_high(self) -> FloatArray:
        """See the class; 1 by default."""
        return np.ones(self.input_size, dtype=np.float32)

    def floor(self, batch: Batch) -> NDArray[np.float64]:
        """Returns the lower bound of each sequence's cost in bits, `[B]`; 0 for deterministic targets."""
        return np.zeros(batch.mask.shape[1])

    def draw(self, rng: np.random.Generator) -> Difficulty:
        """Draws a difficulty uniformly from `ranges`."""
        return {name: int(rng.integers(low, high + 1)) for name, (low, high) in self.ranges.items()}

    def sample(self, batch: int, rng: np.random.Generator, difficulty: Difficulty | None = None) -> Batch:
        """Generates `batch` sequences of the given difficulty; None: each with its own.

        Raises:
            InputError: the difficulty is invalid.
        """
        if difficulty is not None:
            self.check(difficulty)
        episodes = [self.generate(rng, self.draw(rng) if difficulty is None else difficulty) for _ in range(batch)]
        steps = max(len(episode.mask) for episode in episodes)
        inputs = np.zeros((steps, batch, self.input_size), dtype=np.float32)
        targets = np.zeros((steps, batch, self.output_size), dtype=np.float32)
        mask = np.zeros((steps, batch), dtype=np.bool_)
        for index, episode in enumerate(episodes):
            length = len(episode.mask)
            inputs[:length, index], targets[:length, index], mask[:length, index] = episode
        return Batch(inputs, targets, mask)

    def check(self, difficulty: Mapping[str, Any]) -> None:
        """Raises an `InputError` for an invalid difficulty."""
        for name, value in difficulty.items():
            if name not in self.ranges:
                raise InputError(f"{name}: unknown; a difficulty of this task has {', '.join(self.ranges)}")
            require_at_least(1, **{name: value})
            if value > MAX_DIFFICULTY:
                raise InputError(f"{name} = {value}: must be at most {MAX_DIFFICULTY:,}")
        for name in self.ranges:
            if name not in difficulty:
                raise InputError(f"{name}: missing; a difficulty of this task has {', '.join(self.ranges)}")

    def random_vectors(self, rng: np.random.Generator, *shape: int) -> FloatArray:
        """Returns the random bits of a sequence as floats; see `biased_fraction`."""
        if self.biased_fraction and rng.random() < self.biased_fraction:
            return (rng.random(shape) < rng.random()).astype(np.float32)
        return random_bits(rng, *shape)

    def empty_episode(self, steps: int) -> Episode:
        """Returns an episode of zeros with an empty mask."""
        return Episode(
            np.zeros((steps, self.input_size), dtype=np.float32),
            np.zeros((steps, self.output_size), dtype=np.float32),
            np.zeros(steps, dtype=np.bool_),
        )


def random_bits(rng: np.random.Generator, *shape: int) -> FloatArray:
    """Returns fair random bits as floats."""
    return rng.integers(0, 2, size=shape, dtype=np.uint8).astype(np.float32)


def checked_range(name: str, low: int, high: int, minimum: int = 1) -> tuple[int, int]:
    """Returns the range of a number of the difficulty.

    Raises:
        InputError: the range is empty or begins below `minimum`.
    """
    require_at_least(minimum, **{f"min_{name}": low})
    require_at_least(minimum, **{f"max_{name}": high})
    if low > high:
        raise InputError(f"min_{name} = {low}: must be at most max_{name} = {high}")
    return low, high
