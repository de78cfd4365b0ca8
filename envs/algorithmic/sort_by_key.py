"""Sort by key: output random bit vectors in the order of the binary numbers that they encode."""

from typing import Annotated

import numpy as np

from ntm_rl.envs.algorithmic.copy import Copy


class SortByKey(Copy):
    """Sort bit vectors by their value, without separate priorities.

    ## Description
    Shows a sequence of random bit vectors, then a delimiter. The agent outputs the vectors in ascending order of the
    binary numbers that they encode, the first bit being the most significant.

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
    - `ntm_rl/SortByKey-v0`: 8 bits, lengths 1 to 10
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits per vector."] = 8,
        min_length: Annotated[int, "Minimum number of vectors."] = 1,
        max_length: Annotated[int, "Maximum number of vectors."] = 10,
    ):
        super().__init__(bits=bits, min_length=min_length, max_length=max_length)

    def answer(self, vectors: np.ndarray) -> np.ndarray:
        """See `Copy.answer`."""
        return vectors[np.lexsort(vectors.T[::-1])]  # the last key is the primary one
