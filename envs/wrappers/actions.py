"""Checks action spaces, and rescales actions from [-1, 1] to the bounds of a Box."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TransformAction
from numpy.typing import NDArray

from ntm_rl.errors import InputError


def check_action_space(space: spaces.Space[Any], label: str = "action space") -> None:
    """Checks that policies support an action space.

    Args:
        space: The action space.
        label: Its name in the error message.

    Raises:
        InputError: it is not a bounded Box, Discrete, or one-dimensional MultiDiscrete or MultiBinary.
    """
    name = f"{label} = {' '.join(str(space).split())}"
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise InputError(
            f"{name}: not supported; valid are Box, Discrete, MultiDiscrete and MultiBinary; "
            "convert it with gymnasium.wrappers.TransformAction"
        )
    if 0 in (space.shape or ()):
        raise InputError(f"{name}: must have at least one element")
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            raise InputError(
                f"{name}: must have finite bounds; set them in the environment, or with "
                "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(low, high)); remove "
                "gymnasium.wrappers.ClipAction, which drops the bounds: actions are clipped anyway"
            )
    elif not isinstance(space, spaces.Discrete):
        _check_one_dimension(space, name)


def _check_one_dimension(space: spaces.MultiDiscrete | spaces.MultiBinary, name: str) -> None:
    size = int(np.prod(space.shape))
    if len(space.shape) != 1:
        flat = f"MultiBinary({size})" if isinstance(space, spaces.MultiBinary) else "MultiDiscrete(nvec.ravel())"
        raise InputError(
            f"{name}: must have one dimension; flatten it with gymnasium.wrappers.TransformAction(env, "
            f"lambda action: action.reshape{space.shape}, {flat})"
        )
    if isinstance(space, spaces.MultiBinary) and not isinstance(space.n, (int, np.integer)):
        raise InputError(f"{name}: its size must be a number; write MultiBinary({size})")


def float_bounds(space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the bounds of a Box as float64 that convert back to elements of it, unlike float64(2^63 - 1)."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype.kind in "iu":
        high = np.minimum(high, np.nextafter(float(np.iinfo(str(space.dtype)).max), 0))
    return low, high


class RescaledAction(TransformAction[Any, Any, Any], RecordConstructorArgs):
    """Rescales actions from [-1, 1] to the bounds of a Box and rounds integers.

    A Gaussian policy starts with mean 0 and standard deviation 1, so bounds far from [-1, 1] are never reached or
    always clipped. `gymnasium.wrappers.RescaleAction` leaves an integer Box with only the actions -1, 0 and 1.

    Args:
        env: The environment to wrap.

    Raises:
        InputError: the action space is not a bounded Box.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        space = env.action_space
        if not isinstance(space, spaces.Box) or not space.is_bounded():
            raise InputError(f"env.rescale_action = True: the action space {space} is not a bounded Box")
        self._space = space
        self._low, self._high = float_bounds(space)
        TransformAction.__init__(self, env, func=self.scale, action_space=spaces.Box(-1, 1, space.shape, np.float32))

    def scale(self, action: NDArray[Any]) -> NDArray[Any]:
        """Returns the environment's action for an action from [-1, 1]."""
        share = (np.clip(action, -1, 1).astype(np.float64) + 1) / 2
        scaled = np.minimum(self._low * (1 - share) + self._high * share, self._high)
        exact: NDArray[Any] = scaled if self._space.dtype.kind == "f" else np.rint(scaled)
        return exact.astype(self._space.dtype)
