"""What an algorithmic task is: a generator of input and target sequences."""

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
MAX_DIFFICULTY = 100_000  # what a length or number of repeats may be, so that a sequence fits into memory


class Episode(NamedTuple):
    """One sequence.

    Attributes:
        inputs: `[T, I]`.
        targets: `[T, O]` of 0 and 1, zeros where no answer is asked for.
        mask: `[T]`, true where an answer is asked for.
    """

    inputs: FloatArray
    targets: FloatArray
    mask: BoolArray


class Batch(NamedTuple):
    """Sequences side by side, time-major; shorter ones end in blank steps outside the mask.

    Attributes:
        inputs: `[T, B, I]`.
        targets: `[T, B, O]` of 0 and 1.
        mask: `[T, B]`, true where an answer is asked for.
    """

    inputs: FloatArray
    targets: FloatArray
    mask: BoolArray


class Task(ABC):
    """A generator of sequences whose difficulty is a few named numbers, such as `{"length": 20}`.

    Attributes:
        input_size: I, numbers that are seen in a step.
        output_size: O, bits that are answered in a step.
        ranges: Of each number of the difficulty, its smallest and largest value in training.
        input_low: Smallest input of each channel, `[I]`.
        input_high: Largest input of each channel, `[I]`.
        uneven: Share of the sequences of random vectors whose bits are 1 with a probability of their own, uniform,
            and not a half: nearly empty and nearly full vectors are then no rarity.
    """

    input_size: int
    output_size: int
    ranges: Mapping[str, tuple[int, int]]
    uneven: float = 0.0

    @abstractmethod
    def write(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """Writes one sequence of a difficulty, which may lie outside of `ranges`."""

    @property
    def input_low(self) -> FloatArray:
        """See the class; most tasks show nothing but bits."""
        return np.zeros(self.input_size, dtype=np.float32)

    @property
    def input_high(self) -> FloatArray:
        """See the class."""
        return np.ones(self.input_size, dtype=np.float32)

    def floor(self, batch: Batch) -> NDArray[np.float64]:
        """Returns the cost in bits of the best possible answers to each sequence, `[B]`: 0 if they can be known."""
        return np.zeros(batch.mask.shape[1])

    def draw(self, rng: np.random.Generator) -> Difficulty:
        """Draws a difficulty, each of its numbers uniform in its range."""
        return {name: int(rng.integers(low, high + 1)) for name, (low, high) in self.ranges.items()}

    def sample(self, batch: int, rng: np.random.Generator, difficulty: Difficulty | None = None) -> Batch:
        """Writes `batch` sequences, of one given difficulty or each of its own.

        Raises:
            InputError: a difficulty that this task does not have.
        """
        if difficulty is not None:
            self.check(difficulty)
        episodes = [self.write(rng, self.draw(rng) if difficulty is None else difficulty) for _ in range(batch)]
        steps = max(len(episode.mask) for episode in episodes)
        inputs = np.zeros((steps, batch, self.input_size), dtype=np.float32)
        targets = np.zeros((steps, batch, self.output_size), dtype=np.float32)
        mask = np.zeros((steps, batch), dtype=np.bool_)
        for index, episode in enumerate(episodes):
            length = len(episode.mask)
            inputs[:length, index], targets[:length, index], mask[:length, index] = episode
        return Batch(inputs, targets, mask)

    def check(self, difficulty: Mapping[str, Any]) -> None:
        """Raises an `InputError` for a difficulty that this task does not have."""
        for name, value in difficulty.items():
            if name not in self.ranges:
                raise InputError(f"{name}: this task's difficulty has no such number; it has {', '.join(self.ranges)}")
            require_at_least(1, **{name: value})
            if value > MAX_DIFFICULTY:
                raise InputError(f"{name} = {value}: must be at most {MAX_DIFFICULTY:,}")
        for name in self.ranges:
            if name not in difficulty:
                raise InputError(f"{name}: missing; a difficulty of this task names {', '.join(self.ranges)}")

    def random_vectors(self, rng: np.random.Generator, *shape: int) -> FloatArray:
        """Returns the random bits of a sequence's vectors as numbers."""
        if self.uneven and rng.random() < self.uneven:
            return (rng.random(shape) < rng.random()).astype(np.float32)
        return random_bits(rng, *shape)

    def blank(self, steps: int) -> Episode:
        """Returns an empty sequence to write into."""
        return Episode(
            np.zeros((steps, self.input_size), dtype=np.float32),
            np.zeros((steps, self.output_size), dtype=np.float32),
            np.zeros(steps, dtype=np.bool_),
        )


def random_bits(rng: np.random.Generator, *shape: int) -> FloatArray:
    """Returns fair random bits as numbers."""
    return rng.integers(0, 2, size=shape, dtype=np.uint8).astype(np.float32)


def checked_range(name: str, low: int, high: int, minimum: int = 1) -> tuple[int, int]:
    """Returns a range of difficulty.

    Raises:
        InputError: one that is empty, or begins below `minimum`.
    """
    require_at_least(minimum, **{f"min_{name}": low})
    require_at_least(minimum, **{f"max_{name}": high})
    if low > high:
        raise InputError(f"min_{name} = {low}: must be at most max_{name} = {high}")
    return low, high
