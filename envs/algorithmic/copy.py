"""Copy: see a sequence of random bits, then say it again."""

from typing import Annotated

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import Difficulty, Episode, Task, checked_range


class Copy(Task):
    """Copy (Graves et al. 2014, section 4.1).

    ## Description
    A sequence of random bit vectors is shown, one vector a step, then a delimiter. After it the agent says the whole
    sequence once more, a vector a step, while it sees nothing.

    ## Observation
    `Box(0, 1, (bits + 1,))`: the bits, and the delimiter.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the vector to say; any while none is asked for |

    ## Rewards
    A step that asks for an answer pays (right bits - wrong bits) / bits, divided by the number of such steps: a
    perfect episode has the return 1, guessing 0.

    ## Termination
    After the last vector: `2 * length + 1` steps.

    ## Registered Configurations
    - `ntm_rl/Copy-v0`: 8 bits, lengths 1 to 20, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits of a vector."] = 8,
        min_length: Annotated[int, "Fewest vectors."] = 1,
        max_length: Annotated[int, "Most vectors."] = 20,
    ):
        require_at_least(1, bits=bits)
        self.bits, self.input_size, self.output_size = bits, bits + 1, bits
        self.ranges = {"length": checked_range("length", min_length, max_length)}

    def write(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `Task.write`."""
        length = difficulty["length"]
        inputs, targets, mask = episode = self.blank(2 * length + 1)
        vectors = self.random_vectors(rng, length, self.bits)
        inputs[:length, : self.bits] = vectors
        inputs[length, self.bits] = 1
        targets[length + 1 :] = self.answer(vectors)
        mask[length + 1 :] = True
        return episode

    def answer(self, vectors: np.ndarray) -> np.ndarray:
        """Returns what is to be said after `vectors` `[length, bits]`, in the same shape."""
        return vectors
