"""Associative recall: see items, then say the one that came after the item queried."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import Difficulty, Episode, Task, checked_range


class AssociativeRecall(Task):
    """Associative recall (Graves et al. 2014, section 4.3).

    ## Description
    Items are shown, each a delimiter and then some random bit vectors. Then one of them, but the last, is shown again
    between two query delimiters. The agent says the item that followed it.

    ## Observation
    `Box(0, 1, (bits + 2,))`: the bits, the delimiter of items, and the delimiter of the query.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | `MultiBinary(bits)` | the bits of the vector to say; any while none is asked for |

    ## Rewards
    A step that asks for an answer pays (right bits - wrong bits) / bits, divided by the number of such steps: a
    perfect episode has the return 1, guessing 0.

    ## Termination
    After the answer: `(items + 2) * (item_length + 1)` steps.

    ## Registered Configurations
    - `ntm_rl/AssociativeRecall-v0`: 2 to 6 items of three vectors of 6 bits, as in the paper
    """

    def __init__(
        self,
        *,
        bits: Annotated[int, "Bits of a vector."] = 6,
        item_length: Annotated[int, "Vectors of an item."] = 3,
        min_items: Annotated[int, "Fewest items."] = 2,
        max_items: Annotated[int, "Most items."] = 6,
    ):
        require_at_least(1, bits=bits, item_length=item_length)
        self.bits, self.item_length = bits, item_length
        self.input_size, self.output_size = bits + 2, bits
        self.ranges = {"items": checked_range("items", min_items, max_items, minimum=2)}

    def check(self, difficulty: Mapping[str, Any]) -> None:
        """See `Task.check`; one item has none that follows it."""
        super().check(difficulty)
        require_at_least(2, items=difficulty["items"])

    def write(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `Task.write`."""
        count, length, bits = difficulty["items"], self.item_length, self.bits
        inputs, targets, mask = episode = self.blank((count + 2) * (length + 1))
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
