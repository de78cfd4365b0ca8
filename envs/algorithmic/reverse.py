"""Reverse: see a sequence of random bits, then say it from its end to its beginning."""

import numpy as np

from ntm_rl.envs.algorithmic.copy import Copy


class Reverse(Copy):
    """Reverse (Zaremba and Sutskever 2015, section 5).

    ## Description
    As Copy, but the vectors are to be said in reverse order: a stack instead of a queue.

    ## Observation
    `Box(0, 1, (bits + 1,))`: the bits, and the delimiter.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the vector to say; any while none is asked for |

    ## Rewards
    As Copy: a perfect episode has the return 1, guessing 0.

    ## Termination
    After the last vector: `2 * length + 1` steps.

    ## Registered Configurations
    - `ntm_rl/Reverse-v0`: 8 bits, lengths 1 to 20
    """

    def answer(self, vectors: np.ndarray) -> np.ndarray:
        """See `Copy.answer`."""
        return vectors[::-1]
