"""What the diagnostic environments share: copies of one stepped at once, and one of them as a single environment."""

from abc import abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.envs.batched.base import IntArray, SeededBatchedEnv
from ntm_rl.errors import InputError

FloatArray = NDArray[np.float32]
RENDER_MODES = ["rgb_array", "ansi"]
RENDER_FPS = 8
CELL = 16  # pixels
WIDTH = 640  # pixels of a picture at most, unless a cell would be less than one wide


class DiagnosticVectorEnv(SeededBatchedEnv):
    """Copies of a diagnostic environment, which can be written out.

    Args:
        num_envs: Copies.
        observation_space: Of one copy.
        actions: How many there are.
        render_mode: "rgb_array", "ansi", or None.

    Raises:
        InputError: another render mode.
    """

    def __init__(self, num_envs: int, observation_space: spaces.Space[Any], actions: int, render_mode: str | None):
        if render_mode not in (None, *RENDER_MODES):
            raise InputError(f"render_mode = {render_mode!r}: must be one of {', '.join(RENDER_MODES)}, or None")
        super().__init__(num_envs, observation_space, actions)
        self.metadata = {**self.metadata, "render_modes": RENDER_MODES, "render_fps": RENDER_FPS}
        self.render_mode = render_mode

    @abstractmethod
    def write_out(self, index: int) -> str:
        """Returns what a copy looks like, as lines of text."""

    @abstractmethod
    def picture(self, index: int) -> NDArray[np.uint8]:
        """Returns what a copy looks like, `[height, width, 3]`, always of one size."""

    def render(self) -> Any:
        """Returns of each copy what it looks like, as pictures or as lines of text."""
        if self.render_mode is None:
            return None
        show = self.picture if self.render_mode == "rgb_array" else self.write_out
        return tuple(show(index) for index in range(self.num_envs))

    def draw(self, indices: IntArray, high: int, size: int) -> IntArray:
        """Returns numbers from 0 to `high - 1`, `[E, size]`, each copy's from its own generator."""
        return np.stack([self.generators[index].integers(high, size=size) for index in indices])


class DiagnosticEnv(gym.Env[FloatArray, np.int64]):
    """Plays a diagnostic vector environment with one sub-environment as a Gymnasium environment.

    Args:
        envs: The vector environment, with `num_envs` 1.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": RENDER_FPS}  # noqa: RUF012  (Gymnasium's own convention)

    def __init__(self, envs: DiagnosticVectorEnv):
        self._envs = envs
        self.render_mode = envs.render_mode
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        self._envs.generators = [self.np_random]
        observations, info = self._envs.reset()
        return observations[0], info

    def step(self, action: np.int64) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Plays one step.

        Raises:
            InputError: an action that does not exist.
        """
        if not self.action_space.contains(action):
            raise InputError(f"action = {action!r}: must be in {self.action_space}")
        observations, rewards, terminated, truncated = self._envs.advance(np.array([action]))
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        """Returns what it looks like, as a picture `[height, width, 3]` or as lines of text."""
        rendered = self._envs.render()
        return None if rendered is None else rendered[0]


def paint(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns a picture `[height, width, 3]` of cells `[rows, columns, 3]`, which are narrower where they are many."""
    wide = max(1, min(CELL, WIDTH // cells.shape[1]))
    return cells.repeat(CELL, axis=0).repeat(wide, axis=1)
