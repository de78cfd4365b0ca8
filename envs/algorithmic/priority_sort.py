"""Priority sort: see random vectors with priorities, then say those of the highest in order."""

from typing import Annotated

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import Difficulty, Episode, FloatArray, Task, checked_range


class PrioritySort(Task):
    """Priority sort (Graves et al. 2014, section 4.5).

    ## Description
    Random bit vectors are shown, each with a priority drawn uniformly from -1 to 1, then a delimiter. The agent says
    the vectors of the highest priorities, the highest first.

    ## Observation
    `Box(low, 1, (bits + 2,))`: the bits, the priority (-1 to 1), and the delimiter.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the vector to say; any while none is asked for |

    ## Rewards
    A step that asks for an answer pays (right bits - wrong bits) / bits, divided by the number of such steps: a
    perfect episode has the return 1, guessing 0.

    ## Termination
    After the last vector: `items + 1 + outputs` steps; of fewer than `max_items` a share as large is to be said.

    ## Registered Configurations
    - `ntm_rl/PrioritySort-v0`: 20 vectors of 8 bits in, 16 out, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits of a vector."] = 8,
        min_items: Annotated[int, "Fewest vectors shown."] = 20,
        max_items: Annotated[int, "Most vectors shown."] = 20,
        outputs: Annotated[int, "Vectors to say, of max_items shown; of fewer, a share as large."] = 16,
    ):
        require_at_least(1, bits=bits, outputs=outputs)
        self.bits, self.input_size, self.output_size = bits, bits + 2, bits
        self.ranges = {"items": checked_range("items", min_items, max_items)}
        require_at_least(outputs, max_items=max_items)
        self.share = outputs / max_items

    def write(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `Task.write`."""
        items = difficulty["items"]
        outputs = max(1, round(self.share * items))
        inputs, targets, mask = episode = self.blank(items + 1 + outputs)
        vectors = self.random_vectors(rng, items, self.bits)
        priorities = rng.uniform(-1, 1, size=items).astype(np.float32)
        inputs[:items, : self.bits] = vectors
        inputs[:items, self.bits] = priorities
        inputs[items, self.bits + 1] = 1
        targets[items + 1 :] = vectors[np.argsort(-priorities, kind="stable")[:outputs]]
        mask[items + 1 :] = True
        return episode

    @property
    def input_low(self) -> FloatArray:
        """See `Task`."""
        return np.array([*[0] * self.bits, -1, 0], dtype=np.float32)
