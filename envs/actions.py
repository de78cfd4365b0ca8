"""Actions from -1 to 1 in place of an environment's own bounds."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TransformAction
from numpy.typing import NDArray

from ntm_rl.errors import InputError


class RescaledAction(TransformAction[Any, Any, Any], RecordConstructorArgs):
    """Takes actions from -1 to 1 and scales them to the bounds of a Box, integers rounded.

    As `gymnasium.wrappers.RescaleAction`, which would leave an integer Box with the actions -1, 0 and 1. A policy's
    Gaussian begins at 0 with a deviation of 1: bounds far from -1 to 1 are never reached, or always clipped.

    Args:
        env: The environment to wrap.

    Raises:
        InputError: its actions are no Box, or have no bounds.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        space = env.action_space
        if not isinstance(space, spaces.Box) or not space.is_bounded():
            raise InputError(f"env.rescale_action = True: its actions {space} are no Box with bounds; use false")
        self._space = space
        self._low = space.low.astype(np.float64)
        self._range = space.high.astype(np.float64) - self._low
        TransformAction.__init__(self, env, func=self.scale, action_space=spaces.Box(-1, 1, space.shape, np.float32))

    def scale(self, action: NDArray[Any]) -> NDArray[Any]:
        """Returns the environment's action for one from -1 to 1."""
        scaled = self._low + (np.clip(action, -1, 1).astype(np.float64) + 1) / 2 * self._range
        exact: NDArray[Any] = scaled if self._space.dtype.kind == "f" else np.rint(scaled)
        return exact.astype(self._space.dtype)
