"""bsuite's memory chain: recall one of the bits shown at the beginning of the episode."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray
from ntm_rl.envs.memory.env import DiagnosticEnv, DiagnosticVectorEnv, cells_to_image

BAR = 8  # minimum number of cells of the bar that shows the time left
HIDDEN, PLUS, MINUS, QUERIED = (60, 60, 60), (255, 255, 255), (40, 60, 255), (250, 190, 40)


class MemoryChainVectorEnv(DiagnosticVectorEnv):
    """The vector environment of `MemoryChainEnv`, with the same arguments."""

    action_names = ("-1", "+1")

    def __init__(self, num_envs: int, *, length: int = 10, bits: int = 1, render_mode: str | None = None):
        require_at_least(1, length=length, bits=bits)
        # A query that is always 0 still gets a range, as checkers warn about equal bounds.
        low = np.array([0, 0, *[-1] * bits], dtype=np.float32)
        high = np.array([1, max(1, bits - 1), *[1] * bits], dtype=np.float32)
        super().__init__(num_envs, spaces.Box(low, high), 2, render_mode)
        self.length, self.bits = length, bits
        self.observation_names = ("time left", "query", *(f"context {bit}" for bit in range(bits)))
        self._context = np.zeros((num_envs, bits), dtype=np.int64)
        self._query = np.zeros(num_envs, dtype=np.int64)

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {"_time": (0, self.length), "_context": (0, 1), "_query": (0, self.bits - 1)}

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`."""
        self._context[indices] = self.random_integers(indices, 2, self.bits)
        self._query[indices] = self.random_integers(indices, self.bits, 1)[:, 0]
        return self._observe()[indices]

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        ended = self._time == self.length + 1
        is_right = actions == self._context[self._indices, self._query]
        rewards = np.where(ended, np.where(is_right, 1.0, -1.0), 0.0)
        return self._observe(), rewards, ended, np.zeros(self.num_envs, dtype=np.bool_)

    def render_text(self, index: int) -> str:
        """See `DiagnosticVectorEnv.render_text`."""
        time, query, *context = self._observe()[index].tolist()
        signs = " ".join("+" if bit > 0 else "-" if bit < 0 else "." for bit in context)
        shown_query = f"{query:.0f}" if self._shown_times()[index] == self.length - 1 else "none"
        return f"time left {time:.2f}  context {signs}  query {shown_query}\n"

    def render_image(self, index: int) -> NDArray[np.uint8]:
        """See `DiagnosticVectorEnv.render_image`.

        The time left is a bar, the context white and blue while it is shown, and the queried bit is marked in yellow.
        """
        time, _, *context = self._observe()[index].tolist()
        columns = max(self.bits, BAR)
        cells = np.full((3, columns, 3), HIDDEN, dtype=np.uint8)
        cells[0, : round(time * columns)] = PLUS
        for bit, value in enumerate(context):
            cells[1, bit] = PLUS if value > 0 else MINUS if value < 0 else HIDDEN
        if self._shown_times()[index] == self.length - 1:
            cells[2, self._query[index]] = QUERIED
        return cells_to_image(cells)

    def _observe(self) -> NDArray[np.float32]:
        times = self._shown_times()
        observations = np.zeros((self.num_envs, self.bits + 2), dtype=np.float32)
        observations[:, 0] = 1 - times / self.length
        observations[:, 1] = np.where(times == self.length - 1, self._query, 0)
        observations[:, 2:] = np.where(times[:, None] == 0, 2 * self._context - 1, 0)
        return observations

    def _shown_times(self) -> IntArray:
        """Returns the time that each observation shows, `[E]`: 0 in the first two, as in bsuite."""
        return np.maximum(self._time - 1, 0)


class MemoryChainEnv(DiagnosticEnv):
    """The memory chain of bsuite (Osband et al. 2020, arXiv:1908.03568): memory_len and memory_size.

    ## Description
    The first observation shows the context, a list of bits, and the second to last shows the query, the index of one of
    them. The last action must name that bit; the other actions have no effect. bsuite's memory_len measures how long an
    agent remembers (one bit, lengths up to 100), its memory_size how much (length 2, up to 40 bits).

    ## Observation Space
    `Box(float32)` of `bits + 2` values

    | Index | Observation | Values |
    |-------|-------------|--------|
    | 0 | time left: `1 - time / length` | 0 to 1 |
    | 1 | the query at time `length - 1`, else 0 | 0 to `bits - 1` |
    | 2 to `bits + 1` | the context at time 0, else 0 | -1, 1; 0 |

    As in bsuite, the first step shows time 0 again; step t shows time t - 1.

    ## Action Space
    `Discrete(2)`

    | Num | Action |
    |-----|--------|
    | 0 | the queried bit is -1 |
    | 1 | the queried bit is +1 |

    ## Rewards
    1 or -1 in the last step for a right or wrong answer, and 0 in all others.

    The best return is 1. Random actions, and any agent without memory if `length` is above 1, return 0 on average.

    ## Starting State
    The bits are fair and the query is uniform.

    ## Episode End
    Terminates after `length + 1` steps.

    ## Arguments
    - `length`: time from the context to the end, at least 1 (default: 10)
    - `bits`: number of bits of the context, at least 1 (default: 1)
    - `render_mode`: "rgb_array", "ansi" or None

    ## Registered Configurations
    - `ntm_rl/MemoryChain-v0`: `length` 10, `bits` 1

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, *, length: int = 10, bits: int = 1, render_mode: str | None = None):
        super().__init__(MemoryChainVectorEnv(1, length=length, bits=bits, render_mode=render_mode))
