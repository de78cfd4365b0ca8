"""The Endless T-Maze: a chain of corridors, each with its own sign for the turn at its end."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least, require_bool
from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray
from ntm_rl.envs.memory.env import DiagnosticEnv, DiagnosticVectorEnv, cells_to_image

FORWARD, LEFT, RIGHT = range(3)
STEP_FACTOR = 6  # the step limit, in multiples of the fewest steps
IDLE = -0.01  # reward of a step without progress, and of a wrong turn
WALL, FLOOR, GOAL, AGENT = (90, 90, 90), (0, 0, 0), (60, 160, 60), (250, 190, 40)


class EndlessTMazeVectorEnv(DiagnosticVectorEnv):
    """The vector environment of `EndlessTMazeEnv`, with the same arguments."""

    observation_names, action_names = ("distance", "sign left", "sign right"), ("forward", "left", "right")

    def __init__(
        self,
        num_envs: int,
        *,
        length: int = 5,
        corridors: int = 3,
        uniform: bool = False,
        render_mode: str | None = None,
    ):
        require_at_least(1, length=length, corridors=corridors)
        require_bool(uniform=uniform)
        super().__init__(num_envs, spaces.Box(0, 1, (3,), np.float32), 3, render_mode)
        self.length, self.corridors, self.uniform = length, corridors, uniform
        self._steps = STEP_FACTOR * (length + 1) * corridors
        self._turns = np.full((num_envs, corridors), LEFT)  # the correct action at each junction
        self._lengths = np.full((num_envs, corridors), length)
        self._passed = np.zeros(num_envs, dtype=np.int64)  # junctions
        self._position = np.zeros(num_envs, dtype=np.int64)  # in the corridor

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {
            "_time": (0, self._steps - 1),
            "_turns": (LEFT, RIGHT),
            "_lengths": (1, self.length),
            "_passed": (0, self.corridors - 1),
            "_position": (0, self.length),
        }

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`."""
        self._turns[indices] = LEFT + self.random_integers(indices, 2, self.corridors)
        if self.uniform:
            self._lengths[indices] = 1 + self.random_integers(indices, self.length, self.corridors)
        self._passed[indices], self._position[indices] = 0, 0
        return self._observe()[indices]

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        is_junction = self._position >= self._lengths[self._indices, self._passed]
        is_move = (actions == FORWARD) & ~is_junction
        is_turn = (actions != FORWARD) & is_junction
        is_correct = is_turn & (actions == self._turns[self._indices, self._passed])
        self._position = np.where(is_correct, 0, self._position + is_move)
        self._passed = self._passed + is_correct
        rewards = np.where(is_correct, 1.0, np.where(is_move, 0.0, IDLE))
        terminated = is_turn & ~is_correct | (self._passed == self.corridors)
        return self._observe(), rewards, terminated, ~terminated & (self._time == self._steps)

    def final_infos(self) -> dict[str, NDArray[Any]]:
        """See `BatchedEnv.final_infos`."""
        return {"is_success": self._passed == self.corridors}

    def render_text(self, index: int) -> str:
        """See `DiagnosticVectorEnv.render_text`: `G` is the goal, `@` the agent; a turn to the left leads up."""
        length, is_left = self._corridor(index)
        rows = [[" "] * length + ["."], ["."] * (length + 1), [" "] * length + ["."]]
        rows[0 if is_left else 2][-1] = "G"
        rows[1][self._position[index]] = "@"
        lines = [f"passed {self._passed[index]} of {self.corridors}", *map("".join, rows)]
        return "".join(line + "\n" for line in lines)

    def render_image(self, index: int) -> NDArray[np.uint8]:
        """See `DiagnosticVectorEnv.render_image`: goal and passed corridors are green, the agent is yellow."""
        length, is_left = self._corridor(index)
        cells = np.full((4, max(self.length + 1, self.corridors), 3), WALL, dtype=np.uint8)
        cells[1, : length + 1], cells[:3, length] = FLOOR, FLOOR
        cells[0 if is_left else 2, length] = GOAL
        cells[1, self._position[index]] = AGENT
        cells[3, : self._passed[index]] = GOAL
        return cells_to_image(cells)

    def _corridor(self, index: int) -> tuple[int, bool]:
        """Returns the length of the corridor, the last one after the end, and whether its turn is to the left."""
        number = min(self._passed[index], self.corridors - 1)
        return int(self._lengths[index, number]), bool(self._turns[index, number] == LEFT)

    def _observe(self) -> NDArray[np.float32]:
        is_signed = (self._position == 0) & (self._passed < self.corridors)
        turns = self._turns[self._indices, np.minimum(self._passed, self.corridors - 1)]
        signs = [is_signed & (turns == turn) for turn in (LEFT, RIGHT)]
        return np.stack([self._position / self.length, *signs], axis=1, dtype=np.float32, casting="same_kind")


class EndlessTMazeEnv(DiagnosticEnv):
    """The Endless T-Maze of Shchendrigin et al. (2026, arXiv:2601.15086): memory that must be overwritten.

    ## Description
    A chain of `corridors` corridors, each with a junction at its end. The first cell of a corridor shows a sign, left
    or right: the turn to take at the end of this corridor. A correct turn leads to the next corridor, whose sign
    replaces the last one.

    ## Observation Space
    `Box(0, 1, (3,), float32)`

    | Index | Observation | Values |
    |-------|-------------|--------|
    | 0 | steps from the corridor's first cell, over `length` | 0 to 1 |
    | 1 | the sign says left; only in the first cell | 0, 1 |
    | 2 | the sign says right; only in the first cell | 0, 1 |

    ## Action Space
    `Discrete(3)`

    | Num | Action |
    |-----|--------|
    | 0 | forward |
    | 1 | left |
    | 2 | right |

    A turn within a corridor, and forward at a junction, leave the agent where it is.

    ## Rewards
    A correct turn pays 1. A wrong turn, and a step that leaves the agent where it is, cost 0.01.

    Returns: `corridors` at best (derived). Random actions return (1 - 2^-corridors) (0.98 - 0.04 m) on average, where m
    is the mean length of a corridor (derived without the step limit, which changes it by less than 0.01): 0.6825 for
    `length` 5 and 3 corridors. An agent without memory returns at most 0.99 (1 - 2^-corridors), and passes all
    corridors with probability 2^-corridors. `info["is_success"]` says at the end of an episode whether all were passed.

    ## Starting State
    The first cell of the first corridor. Both signs are equally likely. With `uniform` each corridor's length is drawn
    from 1 to `length`.

    ## Episode End
    Terminates with a wrong turn or after the last corridor; truncated after 6 (length + 1) corridors steps.

    ## Arguments
    - `length`: steps from a corridor's first cell to its junction, at least 1 (5)
    - `corridors`: at least 1 (3)
    - `uniform`: draw the lengths of corridors, with `length` as the longest (false)
    - `render_mode`: "rgb_array", "ansi" or None

    ## Registered Configurations
    - `ntm_rl/EndlessTMaze-v0`: `length` 5, `corridors` 3

    ## Comparability
    Written from the paper's description, not its code. The paper trains with lengths and numbers of corridors of 1, 3,
    5 and 10, fixed and uniform. Decided here: a corridor of `length` 1 has its junction one step behind the sign, the
    sign stays visible while the agent waits in the first cell, and lengths are uniform over 1 to `length`. The paper's
    web page names a reward of -1 for a wrong turn. Published figures are comparable only as far as the original decides
    the same.

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(self, *, length: int = 5, corridors: int = 3, uniform: bool = False, render_mode: str | None = None):
        super().__init__(
            EndlessTMazeVectorEnv(1, length=length, corridors=corridors, uniform=uniform, render_mode=render_mode)
        )


def random_return(length: float, corridors: int) -> float:
    """Returns the mean return of uniformly random actions without the step limit.

    Args:
        length: Mean length of a corridor.
        corridors: Number of corridors.

    A corridor costs two idle steps for each step forward, half a step at the junction, and half of the turns are wrong.
    """
    return (1 - 2.0**-corridors) * (0.98 - 0.04 * length)
