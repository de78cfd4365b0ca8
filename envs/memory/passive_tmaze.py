"""The passive T-Maze: the first observation shows which way to turn at the end of a corridor."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray
from ntm_rl.envs.memory.env import DiagnosticEnv, DiagnosticVectorEnv, cells_to_image

RIGHT, UP, LEFT, DOWN = range(4)
WALL, FLOOR, GOAL, AGENT = (90, 90, 90), (0, 0, 0), (60, 160, 60), (250, 190, 40)


class PassiveTMazeVectorEnv(DiagnosticVectorEnv):
    """The vector environment of `PassiveTMazeEnv`, with the same arguments."""

    observation_names, action_names = ("corridor", "junction", "goal or height"), ("right", "up", "left", "down")

    def __init__(self, num_envs: int, *, length: int = 20, render_mode: str | None = None):
        require_at_least(1, length=length)
        super().__init__(num_envs, spaces.Box(-1, 1, (3,), np.float32), 4, render_mode)
        self.length = length
        self._goal = np.ones(num_envs, dtype=np.int64)  # +1 up, -1 down
        self._x, self._y = np.zeros((2, num_envs), dtype=np.int64)

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {"_time": (0, self.length), "_goal": (-1, 1), "_x": (0, self.length), "_y": (-1, 1)}

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`."""
        self._goal[indices] = 2 * self.random_integers(indices, 2, 1)[:, 0] - 1
        self._x[indices], self._y[indices] = 0, 0
        return np.stack([np.ones(len(indices)), np.zeros(len(indices)), self._goal[indices]], axis=1, dtype=np.float32)

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        is_at_junction = self._x == self.length
        self._y = np.where(is_at_junction, (actions == UP) * 1 - (actions == DOWN), 0)
        self._x = np.clip(self._x + (actions == RIGHT) - (actions == LEFT), 0, self.length)
        ended = self._time == self.length + 1
        lag_penalty = np.where(self._x < self._time, -1 / self.length, 0)
        rewards = np.where(ended, self._y == self._goal, lag_penalty)
        # The corridor sets a feature, as in Bakker (2001): if it were all zeros, the biases would learn to go right and
        # carry that action over to the junction.
        observations = np.stack([self._x < self.length, self._x == self.length, self._y], axis=1, dtype=np.float32)
        return observations, rewards, ended, np.zeros(self.num_envs, dtype=np.bool_)

    def final_infos(self) -> dict[str, NDArray[Any]]:
        """See `BatchedEnv.final_infos`."""
        return {"is_success": self._y == self._goal}

    def render_text(self, index: int) -> str:
        """See `DiagnosticVectorEnv.render_text`: `G` is the goal, `@` the agent."""
        rows = [[" "] * self.length + ["."], ["."] * (self.length + 1), [" "] * self.length + ["."]]
        rows[1 - self._goal[index]][-1] = "G"
        rows[1 - self._y[index]][self._x[index]] = "@"
        return "".join("".join(row) + "\n" for row in rows)

    def render_image(self, index: int) -> NDArray[np.uint8]:
        """See `DiagnosticVectorEnv.render_image`: the goal is green, the agent yellow."""
        cells = np.full((3, self.length + 1, 3), WALL, dtype=np.uint8)
        cells[1], cells[:, -1] = FLOOR, FLOOR
        cells[1 - self._goal[index], -1] = GOAL
        cells[1 - self._y[index], self._x[index]] = AGENT
        return cells_to_image(cells)


class PassiveTMazeEnv(DiagnosticEnv):
    """The passive T-Maze of Ni et al. (2023, arXiv:2307.03864, section 4.1), after Bakker (2001).

    ## Description
    A corridor of `length` steps ends in a junction with one place above it and one below it; one of the two is the
    goal. The first observation, at the other end of the corridor, is the only one that shows which. The way there needs
    no exploration (go right; other steps are penalised), so the task measures memory alone: a longer corridor requires
    longer memory.

    ## Observation Space
    `Box(-1, 1, (3,), float32)`

    | Index | Observation | Values |
    |-------|-------------|--------|
    | 0 | whether the agent is in the corridor | 0, 1 |
    | 1 | whether the agent is at the junction, or above or below it | 0, 1 |
    | 2 | first step: the goal, above (1) or below (-1); later: the agent's height relative to the corridor | -1, 0, 1 |

    ## Action Space
    `Discrete(4)`; a move into a wall has no effect.

    | Num | Action |
    |-----|--------|
    | 0 | right |
    | 1 | up |
    | 2 | left |
    | 3 | down |

    ## Rewards
    `-1 / length` in each of the steps 1 to `length` after which the agent is not as far right as possible. The last
    step pays 1 at the goal, else 0.

    The best return is 1. The best agent without memory returns 0.5 on average, random actions
    -1 + (1 - 4^-length) / (3 length) + 4^-(length + 1): -0.9833 for `length` 20. `info["is_success"]` says at the end
    of an episode whether the agent is at the goal.

    ## Starting State
    The left end of the corridor; the goal is above or below with equal probability.

    ## Episode End
    Terminates after `length + 1` steps, the minimum to reach a goal.

    ## Arguments
    - `length`: steps from the start to the junction, at least 1 (default: 20); Ni et al. use up to 1500
    - `render_mode`: "rgb_array", "ansi" or None

    ## Registered Configurations
    - `ntm_rl/PassiveTMaze-v0`: `length` 20

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, *, length: int = 20, render_mode: str | None = None):
        super().__init__(PassiveTMazeVectorEnv(1, length=length, render_mode=render_mode))


def random_return(length: int) -> float:
    """Returns the mean return of uniformly random actions.

    After t steps the agent is as far right as possible with probability 4^-t; the goal takes `length` steps to the
    right and one of four actions at the junction.
    """
    return -1 + (1 - 4.0**-length) / (3 * length) + 4.0 ** -(length + 1)
