"""Priority sort: output the vectors of the highest priorities in order."""

from typing import Annotated

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Difficulty, Episode, FloatArray, checked_range


class PrioritySort(AlgorithmicTask):
    """Priority sort (Graves et al. 2014, section 4.5).

    ## Description
    Shows random bit vectors, each with a priority drawn uniformly from -1 to 1, then a delimiter. The agent outputs the
    vectors of the highest priorities in descending order of priority.

    ## Observation Space
    `Box(low, 1, (bits + 2,))`: the bits, the priority (-1 to 1) and the delimiter.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the answer; ignored in steps without an answer |

    ## Rewards
    (right bits - wrong bits) / bits in each answer step, divided by the number of answer steps, and 0 in the others. A
    perfect episode returns 1, random answers 0 on average.

    ## Episode End
    After the last vector: `items + 1 + outputs` steps; sequences shorter than `max_items` scale `outputs` down.

    ## Registered Configurations
    - `ntm_rl/PrioritySort-v0`: 20 vectors of 8 bits in, 16 out, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits per vector."] = 8,
        min_items: Annotated[int, "Minimum number of input vectors."] = 20,
        max_items: Annotated[int, "Maximum number of input vectors."] = 20,
        outputs: Annotated[int, "Vectors to output of max_items; scaled down for fewer."] = 16,
    ):
        require_at_least(1, bits=bits, outputs=outputs)
        self.bits, self.input_size, self.output_size = bits, bits + 2, bits
        self.ranges = {"items": checked_range("items", min_items, max_items)}
        require_at_least(outputs, max_items=max_items)
        self.share = outputs / max_items

    def generate(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `AlgorithmicTask.generate`."""
        items = difficulty["items"]
        outputs = max(1, round(self.share * items))
        inputs, targets, mask = episode = self.empty_episode(items + 1 + outputs)
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
        """See `AlgorithmicTask`."""
        return np.array([*[0] * self.bits, -1, 0], dtype=np.float32)
