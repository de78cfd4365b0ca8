"""Reverse: output a sequence of random bit vectors from its end to its beginning."""

import numpy as np

from ntm_rl.envs.algorithmic.copy import Copy


class Reverse(Copy):
    """Reverse (Zaremba and Sutskever 2015, section 5).

    ## Description
    As Copy, but in reverse order: a stack instead of a queue.

    ## Observation Space
    `Box(0, 1, (bits + 1,))`: the bits and the delimiter.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the answer; ignored in steps without an answer |

    ## Rewards
    As in Copy: a perfect episode returns 1, random answers 0 on average.

    ## Episode End
    After the last vector: `2 * length + 1` steps.

    ## Registered Configurations
    - `ntm_rl/Reverse-v0`: 8 bits, lengths 1 to 20
    """

    def answer(self, vectors: np.ndarray) -> np.ndarray:
        """See `Copy.answer`."""
        return vectors[::-1]
