"""MiniGrid's Memory as a vector environment.

In these mazes only the agent's position and direction change, so the observations of all poses are computed once and a
step is a look-up.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray, SeededBatchedEnv
from ntm_rl.envs.wrappers.observations import GridFeatures
from ntm_rl.errors import InputError

MINIGRID_MEMORY = [f"MiniGrid-MemoryS{size}-v0" for size in ("7", "9", "11", "13", "13Random", "17Random")]

MIN_END = 4  # column of the end of the shortest hallway
HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up: turning right is + 1
LEFT, RIGHT, FORWARD, ACTIONS = 0, 1, 2, 7  # the last four have no effect: there is nothing to pick up
WRONG, OPEN, MATCHING = -1, 0, 1


def check_size(env: gym.Env[Any, Any]) -> None:
    """Raises an `InputError` for a size that MiniGrid's Memory mazes cannot have."""
    size = env.unwrapped.size  # type: ignore[attr-defined]
    if size % 2 == 0 or size < MIN_END + 3:
        raise InputError(f"size = {size}: must be odd and at least {MIN_END + 3}")


class ScriptedGenerator:
    """Replaces MiniGrid's random generator and returns given numbers."""

    def __init__(self, *numbers: int):
        self._numbers = iter(numbers)

    def integers(self, low: int, high: int) -> int:
        """Returns the next number, whatever the range."""
        return next(self._numbers)


class MiniGridMemoryVectorEnv(SeededBatchedEnv):
    """The vector environment of one of MiniGrid's Memory environments, observed through `GridFeatures`.

    After `reset(seed=s)`, sub-environment i plays the episodes of MiniGrid's environment after `reset(seed=s + i)`.

    Args:
        num_envs: Number of sub-environments.
        env: The environment as `make_env` makes it, from which the observations of all poses are taken.
    """

    def __init__(self, num_envs: int, env: gym.Env[Any, Any]):
        assert isinstance(env, GridFeatures)
        super().__init__(num_envs, env.observation_space, ACTIONS)
        maze: Any = env.unwrapped
        self._max_steps, self._max_end = maze.max_steps, maze.size - 3
        self._is_random = maze.random_length
        # For each of P poses (maze, cell and heading): its observation `[P, features]`, the pose after each action
        # `[P, 7]`, and its outcome `[P]`.
        self._views: NDArray[np.uint8] = np.zeros((0, *env.observation_space.shape), dtype=np.uint8)  # type: ignore[misc]
        self._moves: IntArray = np.zeros((0, ACTIONS), dtype=np.int64)
        self._outcomes: IntArray = np.zeros(0, dtype=np.int64)
        self._starts: dict[tuple[int, ...], int] = {}  # initial pose by an episode's random numbers
        for end in range(MIN_END if self._is_random else self._max_end, self._max_end + 1):
            for first in range(2):
                for others in range(2):
                    self._add_maze(env, end, first, others)
        self._pose = np.zeros(num_envs, dtype=np.int64)

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {"_time": (0, self._max_steps - 1), "_pose": (0, len(self._outcomes) - 1)}

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`; draws random numbers in MiniGrid's order."""
        for index in indices:
            draw = self.generators[index].integers
            end = int(draw(MIN_END, self._max_end + 1)) if self._is_random else self._max_end
            self._pose[index] = self._starts[end, int(draw(1, end + 1)), int(draw(0, 2)), int(draw(0, 2))]
        return self._views[self._pose[indices]].astype(np.float32)

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        self._pose = self._moves[self._pose, actions]
        outcomes = self._outcomes[self._pose]
        rewards = np.where(outcomes == MATCHING, 1 - 0.9 * (self._time / self._max_steps), 0)
        return self._views[self._pose].astype(np.float32), rewards, outcomes != OPEN, self._time >= self._max_steps

    def _add_maze(self, env: GridFeatures, end: int, first: int, others: int) -> None:
        """Adds the poses of a maze: `end` is the hallway's last column, `first` and `others` select its objects."""
        maze: Any = env.unwrapped
        maze.np_random = ScriptedGenerator(*([end] if self._is_random else []), 1, first, others)
        maze.reset()
        row = maze.agent_pos[1]
        cells = _reachable(maze.grid, (1, row))
        poses = {
            (x, y, heading): len(self._outcomes) + 4 * index + heading
            for index, (x, y) in enumerate(cells)
            for heading in range(4)
        }
        views, moves, outcomes = [], [], []
        for (x, y, heading), here in poses.items():
            maze.agent_pos, maze.agent_dir = (x, y), heading
            views.append(env.one_hot(maze.gen_obs()))
            ahead = (x + HEADINGS[heading][0], y + HEADINGS[heading][1], heading)
            leads = [here] * ACTIONS
            leads[LEFT], leads[RIGHT] = poses[x, y, (heading - 1) % 4], poses[x, y, (heading + 1) % 4]
            leads[FORWARD] = poses.get(ahead, here)
            moves.append(leads)
            outcomes.append(MATCHING * ((x, y) == maze.success_pos) + WRONG * ((x, y) == maze.failure_pos))
        self._views = np.concatenate([self._views, np.array(views, dtype=np.uint8)])
        self._moves = np.concatenate([self._moves, moves])
        self._outcomes = np.concatenate([self._outcomes, outcomes])
        self._starts.update({(end, x, first, others): poses[x, row, 0] for x in range(1, end + 1)})


def _reachable(grid: Any, start: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the empty cells that are reachable from `start`."""
    found = [start]
    for x, y in found:
        for right, down in HEADINGS:
            cell = (x + right, y + down)
            if grid.get(*cell) is None and cell not in found:
                found.append(cell)
    return found
