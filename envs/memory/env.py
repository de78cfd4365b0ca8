"""Base classes of the diagnostic environments: the vector environment and the single environment."""

from abc import abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.envs.batched.base import RENDER_FPS, RENDER_MODES, IntArray, SeededBatchedEnv, check_render_mode
from ntm_rl.errors import InputError

FloatArray = NDArray[np.float32]
CELL = 16  # pixels
MAX_WIDTH = 640  # pixels of an image, unless it has more cells


class DiagnosticVectorEnv(SeededBatchedEnv):
    """A diagnostic vector environment that can be rendered.

    Args:
        num_envs: Number of sub-environments.
        observation_space: Observation space of a sub-environment.
        actions: Number of actions.
        render_mode: "rgb_array", "ansi", or None.

    Raises:
        InputError: unknown render mode.
    """

    def __init__(self, num_envs: int, observation_space: spaces.Space[Any], actions: int, render_mode: str | None):
        check_render_mode(render_mode)
        super().__init__(num_envs, observation_space, actions)
        self.metadata = {**self.metadata, "render_modes": RENDER_MODES, "render_fps": RENDER_FPS}
        self.render_mode = render_mode

    @abstractmethod
    def render_text(self, index: int) -> str:
        """Renders a sub-environment as lines of text."""

    @abstractmethod
    def render_image(self, index: int) -> NDArray[np.uint8]:
        """Renders a sub-environment as an image `[height, width, 3]` of constant size."""

    def render(self) -> Any:
        """Renders every sub-environment as an image or as lines of text."""
        if self.render_mode is None:
            return None
        show = self.render_image if self.render_mode == "rgb_array" else self.render_text
        return tuple(show(index) for index in range(self.num_envs))

    def random_integers(self, indices: IntArray, high: int, size: int) -> IntArray:
        """Returns integers from 0 to `high - 1`, `[E, size]`, drawn from the generators of `indices`."""
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
        self.observation_names, self.action_names = envs.observation_names, envs.action_names

    @property
    def max_episode_steps(self) -> int | None:
        """See `BatchedEnv.max_episode_steps`."""
        return self._envs.max_episode_steps

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
            InputError: the action is not in the action space.
        """
        if not self.action_space.contains(action):
            raise InputError(f"action = {action!r}: must be in {self.action_space}")
        observations, rewards, terminated, truncated = self._envs.advance(np.array([action]))
        is_end = bool(terminated[0] or truncated[0])
        info = {name: value[0] for name, value in self._envs.final_infos().items()} if is_end else {}
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Any:
        """Renders the environment as an image `[height, width, 3]` or as lines of text."""
        rendered = self._envs.render()
        return None if rendered is None else rendered[0]


def cells_to_image(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns an image `[height, width, 3]` of cells `[rows, columns, 3]`, narrower if there are many columns."""
    width = max(1, min(CELL, MAX_WIDTH // cells.shape[1]))
    return cells.repeat(CELL, axis=0).repeat(width, axis=1)
