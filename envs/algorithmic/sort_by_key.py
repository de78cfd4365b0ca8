"""Sort by key: see random bit vectors, then say them in the order of the numbers that they spell."""

from typing import Annotated

import numpy as np

from ntm_rl.envs.algorithmic.copy import Copy


class SortByKey(Copy):
    """Sorting by the vectors' own bits, without priorities.

    ## Description
    A sequence of random bit vectors is shown, then a delimiter. After it the agent says them in ascending order of the
    binary numbers that they spell, the first bit counting most. Nothing but the vector itself says where it belongs.

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
    - `ntm_rl/SortByKey-v0`: 8 bits, lengths 1 to 10
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits of a vector."] = 8,
        min_length: Annotated[int, "Fewest vectors."] = 1,
        max_length: Annotated[int, "Most vectors."] = 10,
    ):
        super().__init__(bits=bits, min_length=min_length, max_length=max_length)

    def answer(self, vectors: np.ndarray) -> np.ndarray:
        """See `Copy.answer`."""
        return vectors[np.lexsort(vectors.T[::-1])]  # its last key counts most
