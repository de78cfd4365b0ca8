"""Associative recall: output the item that followed the queried one."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Difficulty, Episode, checked_range


class AssociativeRecall(AlgorithmicTask):
    """Associative recall (Graves et al. 2014, section 4.3).

    ## Description
    Shows a list of items, each a delimiter followed by random bit vectors, and then one of them (not the last) again
    between two query delimiters. The agent outputs the item that followed it in the list.

    ## Observation Space
    `Box(0, 1, (bits + 2,))`: the bits, the item delimiter and the query delimiter.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the answer; ignored in steps without an answer |

    ## Rewards
    (right bits - wrong bits) / bits in each answer step, divided by the number of answer steps, and 0 in the others. A
    perfect episode returns 1, random answers 0 on average.

    ## Episode End
    After the answer: `(items + 2) * (item_length + 1)` steps.

    ## Registered Configurations
    - `ntm_rl/AssociativeRecall-v0`: 2 to 6 items of three 6-bit vectors, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits per vector."] = 6,
        item_length: Annotated[int, "Vectors per item."] = 3,
        min_items: Annotated[int, "Minimum number of items."] = 2,
        max_items: Annotated[int, "Maximum number of items."] = 6,
    ):
        require_at_least(1, bits=bits, item_length=item_length)
        self.bits, self.item_length = bits, item_length
        self.input_size, self.output_size = bits + 2, bits
        self.ranges = {"items": checked_range("items", min_items, max_items, minimum=2)}

    def check(self, difficulty: Mapping[str, Any]) -> None:
        """See `AlgorithmicTask.check`; recall needs at least two items."""
        super().check(difficulty)
        require_at_least(2, items=difficulty["items"])

    def generate(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `AlgorithmicTask.generate`."""
        count, length, bits = difficulty["items"], self.item_length, self.bits
        inputs, targets, mask = episode = self.empty_episode((count + 2) * (length + 1))
        items = self.random_vectors(rng, count, length, bits)
        queried = int(rng.integers(count - 1))
        rows = inputs[: (count + 1) * (length + 1)].reshape(count + 1, length + 1, self.input_size)
        rows[:count, 0, bits] = 1
        rows[:count, 1:, :bits] = items
        rows[count, 0, bits + 1] = 1
        rows[count, 1:, :bits] = items[queried]
        inputs[-length - 1, bits + 1] = 1
        targets[-length:] = items[queried + 1]
        mask[-length:] = True
        return episode
