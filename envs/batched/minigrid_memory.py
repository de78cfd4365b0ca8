"""MiniGrid's Memory, all copies stepped at once.

Nothing changes in these mazes but where the agent stands and how it is turned, so that MiniGrid itself is asked once
what is seen from everywhere. A step is then a look-up.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray, SeededBatchedEnv
from ntm_rl.envs.wrappers.observations import GridFeatures
from ntm_rl.errors import InputError

MINIGRID_MEMORY = [f"MiniGrid-MemoryS{size}-v0" for size in ("7", "9", "11", "13", "13Random", "17Random")]

SHORTEST = 4  # column of the end of the shortest hallway
HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up: to turn right is to go on by one
LEFT, RIGHT, FORWARD, ACTIONS = 0, 1, 2, 7  # the last four do nothing, as there is nothing that can be picked up
WRONG, OPEN, MATCHING = -1, 0, 1


def check_size(env: gym.Env[Any, Any]) -> None:
    """Raises an `InputError` where there are no mazes of the size of one of MiniGrid's Memory environments."""
    size = env.unwrapped.size  # type: ignore[attr-defined]
    if size % 2 == 0 or size < SHORTEST + 3:
        raise InputError(f"size = {size}: must be odd and at least {SHORTEST + 3}")


class ScriptedGenerator:
    """Replaces MiniGrid's random generator and returns given numbers."""

    def __init__(self, *numbers: int):
        self._numbers = iter(numbers)

    def integers(self, low: int, high: int) -> int:
        """Returns the next number, whatever the range."""
        return next(self._numbers)


class MiniGridMemoryVectorEnv(SeededBatchedEnv):
    """Copies of one of MiniGrid's Memory environments, seen as `GridFeatures` shows them.

    Copy i after `reset(seed=s)` plays the episodes of MiniGrid's after `reset(seed=s + i)`.

    Args:
        num_envs: Copies.
        env: One environment as `make_env` makes it, which is asked what its mazes look like.
    """

    def __init__(self, num_envs: int, env: gym.Env[Any, Any]):
        assert isinstance(env, GridFeatures)
        super().__init__(num_envs, env.observation_space, ACTIONS)
        maze: Any = env.unwrapped
        self._max_steps, self._longest = maze.max_steps, maze.size - 3
        self._is_random = maze.random_length
        # What every place, a stand and a heading in a maze, looks like `[P, features]`, where every action leads from
        # there `[P, 7]`, and what it means to be there `[P]`.
        self._views: NDArray[np.uint8] = np.zeros((0, *env.observation_space.shape), dtype=np.uint8)  # type: ignore[misc]
        self._moves: IntArray = np.zeros((0, ACTIONS), dtype=np.int64)
        self._outcomes: IntArray = np.zeros(0, dtype=np.int64)
        self._starts: dict[tuple[int, ...], int] = {}  # by the numbers that are drawn for an episode
        for end in range(SHORTEST if self._is_random else self._longest, self._longest + 1):
            for first in range(2):
                for others in range(2):
                    self._add_maze(env, end, first, others)
        self._place = np.zeros(num_envs, dtype=np.int64)

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {"_time": (0, self._max_steps - 1), "_place": (0, len(self._outcomes) - 1)}

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`; draws as MiniGrid does."""
        for index in indices:
            draw = self.generators[index].integers
            end = int(draw(SHORTEST, self._longest + 1)) if self._is_random else self._longest
            self._place[index] = self._starts[end, int(draw(1, end + 1)), int(draw(0, 2)), int(draw(0, 2))]
        return self._views[self._place[indices]].astype(np.float32)

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        self._place = self._moves[self._place, actions]
        outcomes = self._outcomes[self._place]
        rewards = np.where(outcomes == MATCHING, 1 - 0.9 * (self._time / self._max_steps), 0)
        return self._views[self._place].astype(np.float32), rewards, outcomes != OPEN, self._time >= self._max_steps

    def _add_maze(self, env: GridFeatures, end: int, first: int, others: int) -> None:
        """Adds the places of a maze: its hallway ends in column `end`, the objects are the so manieth of MiniGrid's."""
        maze: Any = env.unwrapped
        maze.np_random = ScriptedGenerator(*([end] if self._is_random else []), 1, first, others)
        maze.reset()
        row = maze.agent_pos[1]
        stands = _reachable(maze.grid, (1, row))
        place = {
            (x, y, heading): len(self._outcomes) + 4 * index + heading
            for index, (x, y) in enumerate(stands)
            for heading in range(4)
        }
        views, moves, outcomes = [], [], []
        for (x, y, heading), here in place.items():
            maze.agent_pos, maze.agent_dir = (x, y), heading
            views.append(env.one_hot(maze.gen_obs()))
            ahead = (x + HEADINGS[heading][0], y + HEADINGS[heading][1], heading)
            leads = [here] * ACTIONS
            leads[LEFT], leads[RIGHT] = place[x, y, (heading - 1) % 4], place[x, y, (heading + 1) % 4]
            leads[FORWARD] = place.get(ahead, here)
            moves.append(leads)
            outcomes.append(MATCHING * ((x, y) == maze.success_pos) + WRONG * ((x, y) == maze.failure_pos))
        self._views = np.concatenate([self._views, np.array(views, dtype=np.uint8)])
        self._moves = np.concatenate([self._moves, moves])
        self._outcomes = np.concatenate([self._outcomes, outcomes])
        self._starts.update({(end, x, first, others): place[x, row, 0] for x in range(1, end + 1)})


def _reachable(grid: Any, start: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns the empty cells that can be walked to from one of them."""
    found = [start]
    for x, y in found:
        for right, down in HEADINGS:
            cell = (x + right, y + down)
            if grid.get(*cell) is None and cell not in found:
                found.append(cell)
    return found
