"""Copy: output a sequence of random bit vectors again."""

from typing import Annotated

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Difficulty, Episode, checked_range


class Copy(AlgorithmicTask):
    """Copy (Graves et al. 2014, section 4.1).

    ## Description
    Shows a sequence of random bit vectors, one per step, then a delimiter. The agent then outputs the sequence, one
    vector per step, while the observations are zero.

    ## Observation Space
    `Box(0, 1, (bits + 1,))`: the bits and the delimiter.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the answer; ignored in steps without an answer |

    ## Rewards
    (right bits - wrong bits) / bits in each answer step, divided by the number of answer steps, and 0 in the others. A
    perfect episode returns 1, random answers 0 on average.

    ## Episode End
    After the last vector: `2 * length + 1` steps.

    ## Registered Configurations
    - `ntm_rl/Copy-v0`: 8 bits, lengths 1 to 20, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits per vector."] = 8,
        min_length: Annotated[int, "Minimum number of vectors."] = 1,
        max_length: Annotated[int, "Maximum number of vectors."] = 20,
    ):
        require_at_least(1, bits=bits)
        self.bits, self.input_size, self.output_size = bits, bits + 1, bits
        self.ranges = {"length": checked_range("length", min_length, max_length)}

    def generate(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `AlgorithmicTask.generate`."""
        length = difficulty["length"]
        inputs, targets, mask = episode = self.empty_episode(2 * length + 1)
        vectors = self.random_vectors(rng, length, self.bits)
        inputs[:length, : self.bits] = vectors
        inputs[length, self.bits] = 1
        targets[length + 1 :] = self.answer(vectors)
        mask[length + 1 :] = True
        return episode

    def answer(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the expected answer to `vectors` `[length, bits]`, in the same shape."""
        return vectors
