"""Dynamic N-grams: predict the bits of a source whose probabilities change with every sequence."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.envs.algorithmic.task import (
    AlgorithmicTask,
    Batch,
    Difficulty,
    Episode,
    FloatArray,
    checked_range,
    random_bits,
)

PRIOR = 0.5  # both parameters of the Beta distribution of a table's probabilities


class DynamicNGrams(AlgorithmicTask):
    """Dynamic N-grams (Graves et al. 2014, section 4.4).

    ## Description
    A table, drawn from Beta(1/2, 1/2) for each sequence, holds the probability that the next bit is 1 for each of the
    `2 ** (n - 1)` contexts of `n - 1` bits. The first `n - 1` bits are fair; the others follow the table. The agent
    predicts the next bit at every step.

    ## Observation Space
    `Box(0, 1, (2,))`: the last bit, one-hot; zeros in the first step.

    ## Action Space
    | Num | Action |
    |-----|--------|
    | 0 | the next bit is 0 |
    | 1 | the next bit is 1 |

    ## Rewards
    1 / length for a right prediction and -1 / length for a wrong one.

    ## Episode End
    After `length` steps.

    ## Registered Configurations
    - `ntm_rl/DynamicNGrams-v0`: 6-grams, 200 bits, as in the paper
    """

    def __init__(
        self,
        *,
        n: Annotated[int, "Length of an N-gram: n - 1 bits of context and the next bit."] = 6,
        length: Annotated[int, "Bits per sequence."] = 200,
    ):
        require_at_least(1, n=n, length=length)
        self.n, self.input_size, self.output_size = n, 2, 1
        self.ranges = {"length": checked_range("length", length, length)}

    def generate(self, rng: np.random.Generator, difficulty: Difficulty) -> Episode:
        """See `AlgorithmicTask.generate`."""
        length, context_bits = difficulty["length"], self.n - 1
        table = rng.beta(PRIOR, PRIOR, size=2**context_bits).tolist()
        first = random_bits(rng, min(context_bits, length)).astype(int).tolist()
        bits, context = list(first), int("".join(map(str, first)) or "0", 2)
        wrap = 2**context_bits
        for uniform in rng.random(length - len(first)).tolist():
            bit = int(uniform < table[context])
            bits.append(bit)
            context = (2 * context + bit) % wrap
        inputs, targets, mask = episode = self.empty_episode(length)
        targets[:, 0] = bits
        inputs[np.arange(1, length), bits[:-1]] = 1
        mask[:] = True
        return episode

    def floor(self, batch: Batch) -> NDArray[np.float64]:
        """See `AlgorithmicTask.floor`: the cost of the optimal estimator, which knows the prior but not the table."""
        return optimal_bits(batch.targets[..., 0], self.n)


def optimal_bits(targets: FloatArray, n: int = 6) -> NDArray[np.float64]:
    """Returns the cost in bits of the optimal estimator (section 4.4, eq. 10) on each sequence, `[B]`.

    It predicts 1 with probability (N1 + 1/2) / (N0 + N1 + 1), where N0 and N1 count the zeros and ones after the same
    context so far; the first `n - 1` bits cost one bit each.

    Args:
        targets: Bits `[T, B]`.
        n: Length of an N-gram.
    """
    steps, batch = targets.shape
    counts = np.full((batch, 2 ** (n - 1), 2), PRIOR)
    context, rows = np.zeros(batch, dtype=np.int64), np.arange(batch)
    cost = np.zeros(batch)
    for step in range(steps):
        bit = targets[step].astype(np.int64)
        if step < n - 1:
            cost += 1
        else:
            following = counts[rows, context]
            cost -= np.log2(following[rows, bit] / following.sum(axis=1))
            counts[rows, context, bit] += 1
        context = (2 * context + bit) % 2 ** (n - 1)
    return cost
