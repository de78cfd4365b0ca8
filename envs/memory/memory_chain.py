"""bsuite's memory chain: bits seen once, one of which is asked for at the end."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray
from ntm_rl.envs.memory.env import DiagnosticEnv, DiagnosticVectorEnv, paint

BAR = 8  # cells of the time that is left, where the context has no more bits
HIDDEN, PLUS, MINUS, ASKED = (60, 60, 60), (255, 255, 255), (40, 60, 255), (250, 190, 40)


class MemoryChainVectorEnv(DiagnosticVectorEnv):
    """Copies of `MemoryChainEnv`, stepped at once; arguments as there."""

    def __init__(self, num_envs: int, *, length: int = 10, bits: int = 1, render_mode: str | None = None):
        require_at_least(1, length=length, bits=bits)
        # A query that can only be 0 still gets a range: checkers warn of bounds that are equal.
        low = np.array([0, 0, *[-1] * bits], dtype=np.float32)
        high = np.array([1, max(1, bits - 1), *[1] * bits], dtype=np.float32)
        super().__init__(num_envs, spaces.Box(low, high), 2, render_mode)
        self.length, self.bits = length, bits
        self._context = np.zeros((num_envs, bits), dtype=np.int64)
        self._query = np.zeros(num_envs, dtype=np.int64)

    def course(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.course`."""
        return {"_time": (0, self.length), "_context": (0, 1), "_query": (0, self.bits - 1)}

    def begin(self, copies: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`."""
        self._context[copies] = self.draw(copies, 2, self.bits)
        self._query[copies] = self.draw(copies, self.bits, 1)[:, 0]
        return self._look()[copies]

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        ended = self._time == self.length + 1
        is_right = actions == self._context[self._copies, self._query]
        rewards = np.where(ended, np.where(is_right, 1.0, -1.0), 0.0)
        return self._look(), rewards, ended, np.zeros(self.num_envs, dtype=np.bool_)

    def write_out(self, copy: int) -> str:
        """See `DiagnosticVectorEnv.write_out`."""
        time, query, *context = self._look()[copy].tolist()
        signs = " ".join("+" if bit > 0 else "-" if bit < 0 else "." for bit in context)
        asked = f"{query:.0f}" if self._moments()[copy] == self.length - 1 else "none"
        return f"time left {time:.2f}  context {signs}  query {asked}\n"

    def picture(self, copy: int) -> NDArray[np.uint8]:
        """See `DiagnosticVectorEnv.picture`.

        The time left as a bar, the context in white and blue where it is shown, and yellow below the bit asked for.
        """
        time, _, *context = self._look()[copy].tolist()
        columns = max(self.bits, BAR)
        cells = np.full((3, columns, 3), HIDDEN, dtype=np.uint8)
        cells[0, : round(time * columns)] = PLUS
        for bit, value in enumerate(context):
            cells[1, bit] = PLUS if value > 0 else MINUS if value < 0 else HIDDEN
        if self._moments()[copy] == self.length - 1:
            cells[2, self._query[copy]] = ASKED
        return paint(cells)

    def _look(self) -> NDArray[np.float32]:
        moments = self._moments()
        observations = np.zeros((self.num_envs, self.bits + 2), dtype=np.float32)
        observations[:, 0] = 1 - moments / self.length
        observations[:, 1] = np.where(moments == self.length - 1, self._query, 0)
        observations[:, 2:] = np.where(moments[:, None] == 0, 2 * self._context - 1, 0)
        return observations

    def _moments(self) -> IntArray:
        """Returns the moment that each copy shows, `[E]`: the first one twice, as bsuite does."""
        return np.maximum(self._time - 1, 0)


class MemoryChainEnv(DiagnosticEnv):
    """The memory chain of bsuite (Osband et al. 2020, arXiv:1908.03568): memory_len and memory_size.

    ## Description
    Bits, the context, are shown at the beginning, and at the end the number of one of them, the query. The last action
    must say that bit; those before have no effect. bsuite measures how long an agent remembers with one bit and
    lengths up to 100 (memory_len), and how much with length 2 and up to 40 bits (memory_size).

    ## Observation Space
    `Box(float32)` of `bits + 2` values

    | Index | Observation | Values |
    |-------|-------------|--------|
    | 0 | time left: `1 - moment / length` | 0 to 1 |
    | 1 | the query at moment `length - 1`, else 0 | 0 to `bits - 1` |
    | 2 to `bits + 1` | the context at moment 0, else 0 | -1, 1; 0 |

    As in bsuite, the first step shows moment 0 once more; step t shows moment t - 1.

    ## Action Space
    `Discrete(2)`

    | Num | Action |
    |-----|--------|
    | 0 | the bit asked for was -1 |
    | 1 | the bit asked for was +1 |

    ## Rewards
    The last step pays 1 if right and -1 if wrong, all others 0.

    Returns: 1 at best, 0 on average for random actions and for any agent without memory of a `length` above 1.

    ## Starting State
    Fair bits; the query is uniform.

    ## Episode End
    Terminates after `length + 1` steps.

    ## Arguments
    - `length`: moments over which the context must be kept, at least 1 (10)
    - `bits`: of the context, at least 1 (1)
    - `render_mode`: "rgb_array", "ansi" or None

    ## Registered Configurations
    - `ntm_rl/MemoryChain-v0`: `length` 10, `bits` 1

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(self, *, length: int = 10, bits: int = 1, render_mode: str | None = None):
        super().__init__(MemoryChainVectorEnv(1, length=length, bits=bits, render_mode=render_mode))
