"""Long addition: output the sum of two binary numbers."""

from typing import Annotated

import numpy as np

from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Difficulty, Episode, checked_range, random_bits


class Addition(AlgorithmicTask):
    """Long addition of two binary numbers (after Zaremba and Sutskever 2014, section 4).

    ## Description
    Shows the digits of a number from the least significant, a plus sign, the digits of a second number of equal length,
    and an equals sign. The agent outputs the digits of the sum from the least significant: one more than each number.

    ## Observation Space
    `Box(0, 1, (4,))`: the digit, one-hot in two channels, the plus sign and the equals sign.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | 0 | the digit is 0 |
    | 1 | the digit is 1 |

    ## Rewards
    1 / (digits + 1) for a right digit, -1 / (digits + 1) for a wrong one, and 0 in steps without an answer.

    ## Episode End
    After the last digit: `3 * digits + 3` steps.

    ## Registered Configurations
    - `ntm_rl/Addition-v0`: 1 to 10 digits
    """

    def __init__(
        self,
        *,
        min_digits: Annotated[int, "Minimum number of digits of each number."] = 1,
        max_digits: Annotated[int, "Maximum number of digits of each number."] = 10,
    ):
        self.input_size, self.output_size = 4, 1
        self.ranges = {"digits": checked_range("digits", min_digits, max_digits)}

    def generate(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `AlgorithmicTask.generate`."""
        digits = difficulty["digits"]
        inputs, targets, mask = episode = self.empty_episode(3 * digits + 3)
        first, second = random_bits(rng, 2, digits).astype(np.int64)
        inputs[np.arange(digits), first] = 1
        inputs[digits, 2] = 1
        inputs[digits + 1 + np.arange(digits), second] = 1
        inputs[2 * digits + 1, 3] = 1
        targets[2 * digits + 2 :, 0] = _sum(first, second)
        mask[2 * digits + 2 :] = True
        return episode


def _sum(first: np.ndarray, second: np.ndarray) -> list[int]:
    """Adds two numbers given as digits, least significant first."""
    digits, carry = [], 0
    for column in (first + second).tolist():
        carry, digit = divmod(column + carry, 2)
        digits.append(digit)
    return [*digits, carry]
