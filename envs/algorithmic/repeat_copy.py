"""Repeat copy: see a sequence of random bits and a number, then say the sequence so many times."""

from typing import Annotated

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import Difficulty, Episode, FloatArray, Task, checked_range


class RepeatCopy(Task):
    """Repeat copy (Graves et al. 2014, section 4.2).

    ## Description
    A sequence of random bit vectors is shown, then a delimiter with the number of copies on a channel of its own. The
    agent says the sequence so many times, and then an end marker, which shows that it counted.

    ## Observation
    `Box(low, high, (bits + 2,))`: the bits, the delimiter, and the number of copies, scaled to mean 0 and variance 1
    over the range `min_repeats` to `max_repeats`.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits + 1)` | the bits of the vector to say, and the end marker; any while none is asked for |

    ## Rewards
    A step that asks for an answer pays (right bits - wrong bits) / (bits + 1), divided by the number of such steps: a
    perfect episode has the return 1, guessing 0.

    ## Termination
    After the end marker: `length + 1 + length * repeats + 1` steps.

    ## Registered Configurations
    - `ntm_rl/RepeatCopy-v0`: 8 bits, lengths and repeats 1 to 10, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits of a vector."] = 8,
        min_length: Annotated[int, "Fewest vectors."] = 1,
        max_length: Annotated[int, "Most vectors."] = 10,
        min_repeats: Annotated[int, "Fewest copies."] = 1,
        max_repeats: Annotated[int, "Most copies."] = 10,
    ):
        require_at_least(1, bits=bits)
        self.bits, self.input_size, self.output_size = bits, bits + 2, bits + 1
        self.ranges = {
            "length": checked_range("length", min_length, max_length),
            "repeats": checked_range("repeats", min_repeats, max_repeats),
        }

    def write(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `Task.write`."""
        length, repeats = difficulty["length"], difficulty["repeats"]
        inputs, targets, mask = episode = self.blank(length + 1 + length * repeats + 1)
        vectors = self.random_vectors(rng, length, self.bits)
        inputs[:length, : self.bits] = vectors
        inputs[length, self.bits :] = 1, self.scale(repeats)
        targets[length + 1 : -1, : self.bits] = np.tile(vectors, (repeats, 1))
        targets[-1, self.bits] = 1
        mask[length + 1 :] = True
        return episode

    def scale(self, repeats: int) -> float:
        """Returns a number of copies as it is shown; those of training have mean 0 and variance 1."""
        low, high = self.ranges["repeats"]
        deviation = np.sqrt(((high - low + 1) ** 2 - 1) / 12)  # of a uniform distribution on integers
        return float((repeats - (low + high) / 2) / max(deviation, 1))

    @property
    def input_low(self) -> FloatArray:
        """See `Task`."""
        return np.array([*[0] * (self.bits + 1), min(self.scale(self.ranges["repeats"][0]), 0)], dtype=np.float32)

    @property
    def input_high(self) -> FloatArray:
        """See `Task`."""
        return np.array([*[1] * (self.bits + 1), max(self.scale(self.ranges["repeats"][1]), 1)], dtype=np.float32)
