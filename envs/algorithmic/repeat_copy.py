"""Repeat copy: output a sequence of random bit vectors a given number of times."""

from typing import Annotated

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Difficulty, Episode, FloatArray, checked_range


class RepeatCopy(AlgorithmicTask):
    """Repeat copy (Graves et al. 2014, section 4.2).

    ## Description
    Shows a sequence of random bit vectors, then a delimiter with the number of repeats in a separate channel. The agent
    outputs the sequence that many times and then an end marker, which requires counting.

    ## Observation Space
    `Box(low, high, (bits + 2,))`: the bits, the delimiter and the number of repeats, normalised to mean 0 and
    variance 1 over `min_repeats` to `max_repeats`.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits + 1)` | the bits of the answer and the end marker; ignored in steps without an answer |

    ## Rewards
    (right bits - wrong bits) / (bits + 1) in each answer step, divided by the number of answer steps, and 0 in the
    others. A perfect episode returns 1, random answers 0 on average.

    ## Episode End
    After the end marker: `length + 1 + length * repeats + 1` steps.

    ## Registered Configurations
    - `ntm_rl/RepeatCopy-v0`: 8 bits, lengths and repeats 1 to 10, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits per vector."] = 8,
        min_length: Annotated[int, "Minimum number of vectors."] = 1,
        max_length: Annotated[int, "Maximum number of vectors."] = 10,
        min_repeats: Annotated[int, "Minimum number of repeats."] = 1,
        max_repeats: Annotated[int, "Maximum number of repeats."] = 10,
    ):
        require_at_least(1, bits=bits)
        self.bits, self.input_size, self.output_size = bits, bits + 2, bits + 1
        self.ranges = {
            "length": checked_range("length", min_length, max_length),
            "repeats": checked_range("repeats", min_repeats, max_repeats),
        }

    def generate(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `AlgorithmicTask.generate`."""
        length, repeats = difficulty["length"], difficulty["repeats"]
        inputs, targets, mask = episode = self.empty_episode(length + 1 + length * repeats + 1)
        vectors = self.random_vectors(rng, length, self.bits)
        inputs[:length, : self.bits] = vectors
        inputs[length, self.bits :] = 1, self.scale(repeats)
        targets[length + 1 : -1, : self.bits] = np.tile(vectors, (repeats, 1))
        targets[-1, self.bits] = 1
        mask[length + 1 :] = True
        return episode

    def scale(self, repeats: int) -> float:
        """Returns the number of repeats normalised to mean 0 and variance 1 over the training range."""
        low, high = self.ranges["repeats"]
        deviation = np.sqrt(((high - low + 1) ** 2 - 1) / 12)  # of a uniform distribution on integers
        return float((repeats - (low + high) / 2) / max(deviation, 1))

    @property
    def input_low(self) -> FloatArray:
        """See `AlgorithmicTask`."""
        return np.array([*[0] * (self.bits + 1), min(self.scale(self.ranges["repeats"][0]), 0)], dtype=np.float32)

    @property
    def input_high(self) -> FloatArray:
        """See `AlgorithmicTask`."""
        return np.array([*[1] * (self.bits + 1), max(self.scale(self.ranges["repeats"][1]), 1)], dtype=np.float32)
