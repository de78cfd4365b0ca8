"""The passive T-Maze: which way to turn at the end of a corridor is told at its beginning alone."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray
from ntm_rl.envs.memory.env import DiagnosticEnv, DiagnosticVectorEnv, paint

RIGHT, UP, LEFT, DOWN = range(4)
WALL, FLOOR, GOAL, AGENT = (90, 90, 90), (0, 0, 0), (60, 160, 60), (250, 190, 40)


class PassiveTMazeVectorEnv(DiagnosticVectorEnv):
    """Copies of `PassiveTMazeEnv`, stepped at once; arguments as there."""

    def __init__(self, num_envs: int, *, length: int = 20, render_mode: str | None = None):
        require_at_least(1, length=length)
        super().__init__(num_envs, spaces.Box(-1, 1, (3,), np.float32), 4, render_mode)
        self.length = length
        self._goal = np.ones(num_envs, dtype=np.int64)  # +1 up, -1 down
        self._x, self._y = np.zeros((2, num_envs), dtype=np.int64)

    def course(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.course`."""
        return {"_time": (0, self.length), "_goal": (-1, 1), "_x": (0, self.length), "_y": (-1, 1)}

    def begin(self, copies: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`."""
        self._goal[copies] = 2 * self.draw(copies, 2, 1)[:, 0] - 1
        self._x[copies], self._y[copies] = 0, 0
        return np.stack([np.ones(len(copies)), np.zeros(len(copies)), self._goal[copies]], axis=1, dtype=np.float32)

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        is_at_junction = self._x == self.length
        self._y = np.where(is_at_junction, (actions == UP) * 1 - (actions == DOWN), 0)
        self._x = np.clip(self._x + (actions == RIGHT) - (actions == LEFT), 0, self.length)
        ended = self._time == self.length + 1
        on_the_way = np.where(self._x < self._time, -1 / self.length, 0)
        rewards = np.where(ended, self._y == self._goal, on_the_way)
        # Something is seen everywhere, as in Bakker (2001): what is learned of the corridor by biases alone, go right,
        # would hold at the junction too, where by then nobody tries anything else.
        observations = np.stack([self._x < self.length, self._x == self.length, self._y], axis=1, dtype=np.float32)
        return observations, rewards, ended, np.zeros(self.num_envs, dtype=np.bool_)

    def write_out(self, copy: int) -> str:
        """See `DiagnosticVectorEnv.write_out`: `G` is the goal, `@` the agent."""
        rows = [[" "] * self.length + ["."], ["."] * (self.length + 1), [" "] * self.length + ["."]]
        rows[1 - self._goal[copy]][-1] = "G"
        rows[1 - self._y[copy]][self._x[copy]] = "@"
        return "".join("".join(row) + "\n" for row in rows)

    def picture(self, copy: int) -> NDArray[np.uint8]:
        """See `DiagnosticVectorEnv.picture`: the goal is green, the agent yellow."""
        cells = np.full((3, self.length + 1, 3), WALL, dtype=np.uint8)
        cells[1], cells[:, -1] = FLOOR, FLOOR
        cells[1 - self._goal[copy], -1] = GOAL
        cells[1 - self._y[copy], self._x[copy]] = AGENT
        return paint(cells)


class PassiveTMazeEnv(DiagnosticEnv):
    """The passive T-Maze of Ni et al. (2023, arXiv:2307.03864, section 4.1), after Bakker (2001).

    ## Description
    A corridor of `length` steps ends in a junction, above and below which lie two places, one of them the goal. The
    agent begins at the corridor's far end, where it is told once which of the two is the goal. What to do on the way is
    plain: go right, every other step costs. What is asked is to remember: the longer the corridor, the longer.

    ## Observation Space
    `Box(-1, 1, (3,), float32)`

    | Index | Observation | Values |
    |-------|-------------|--------|
    | 0 | whether the agent is in the corridor | 0, 1 |
    | 1 | whether the agent is at the junction, or above or below it | 0, 1 |
    | 2 | at the first step the goal, above (1) or below (-1); then where the agent is: on the corridor's height (0), above or below | -1, 0, 1 |

    ## Action Space
    `Discrete(4)`; a move into a wall leaves the agent where it is.

    | Num | Action |
    |-----|--------|
    | 0 | right |
    | 1 | up |
    | 2 | left |
    | 3 | down |

    ## Rewards
    Steps 1 to `length` cost `1 / length` each if the agent is not as far right as it could be, so at most 1 in all. The
    last step pays 1 at the goal and else 0.

    Returns: 1 at best; 0.5 on average for the best agent without memory; -1 + (1 - 4^-length) / (3 length) +
    4^-(length + 1) on average for random actions, which is -0.9833 for `length` 20.

    ## Starting State
    The corridor's left end; the goal is above or below with the same probability.

    ## Episode End
    Terminates after `length + 1` steps, the fewest in which a goal can be reached.

    ## Arguments
    - `length`: steps from the beginning to the junction, at least 1 (20); Ni et al. go up to 1500
    - `render_mode`: "rgb_array", "ansi" or None

    ## Registered Configurations
    - `ntm_rl/PassiveTMaze-v0`: `length` 20

    Raises:
        InputError: an argument out of its range.
    """  # noqa: E501  (a table's row is one line)

    def __init__(self, *, length: int = 20, render_mode: str | None = None):
        super().__init__(PassiveTMazeVectorEnv(1, length=length, render_mode=render_mode))


def random_return(length: int) -> float:
    """Returns the mean return of uniformly random actions.

    The agent is as far right as it could be after t steps with probability 4^-t; the goal takes `length` steps to the
    right and one of four actions at the junction.
    """
    return -1 + (1 - 4.0**-length) / (3 * length) + 4.0 ** -(length + 1)
