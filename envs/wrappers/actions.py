"""Which actions a policy takes, and actions from -1 to 1 in place of an environment's own bounds."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TransformAction
from numpy.typing import NDArray

from ntm_rl.errors import InputError


def check_action_space(space: spaces.Space[Any], label: str = "action space") -> None:
    """Checks that a policy can act in a space.

    Args:
        space: The environment's action space.
        label: What it is called in the error.

    Raises:
        InputError: it is none of a Box with bounds, Discrete, and MultiDiscrete and MultiBinary of one dimension.
    """
    what = f"{label} = {' '.join(str(space).split())}"
    if not isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        raise InputError(
            f"{what}: not supported; valid are Box, Discrete, MultiDiscrete and MultiBinary; "
            "gymnasium.wrappers.TransformAction makes its actions out of one of these"
        )
    if 0 in (space.shape or ()):
        raise InputError(f"{what}: must have at least one element")
    if isinstance(space, spaces.Box):
        if not space.is_bounded():
            raise InputError(
                f"{what}: must have finite bounds; set them in the environment, or with "
                "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(low, high)); leave out "
                "gymnasium.wrappers.ClipAction, which takes bounds away: actions are clipped to them in any case"
            )
    elif not isinstance(space, spaces.Discrete):
        _check_one_dimension(space, what)


def _check_one_dimension(space: spaces.MultiDiscrete | spaces.MultiBinary, what: str) -> None:
    size = int(np.prod(space.shape))
    if len(space.shape) != 1:
        flat = f"MultiBinary({size})" if isinstance(space, spaces.MultiBinary) else "MultiDiscrete(nvec.ravel())"
        raise InputError(
            f"{what}: must have one dimension; flatten it with gymnasium.wrappers.TransformAction(env, "
            f"lambda action: action.reshape{space.shape}, {flat})"
        )
    if isinstance(space, spaces.MultiBinary) and not isinstance(space.n, (int, np.integer)):
        raise InputError(f"{what}: its size must be a number; write MultiBinary({size})")


def float_bounds(space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns a Box's bounds as floats that round to elements of it: 2^63 - 1, for one, is no float64."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype.kind in "iu":
        high = np.minimum(high, np.nextafter(float(np.iinfo(str(space.dtype)).max), 0))
    return low, high


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
        self._low, self._high = float_bounds(space)
        TransformAction.__init__(self, env, func=self.scale, action_space=spaces.Box(-1, 1, space.shape, np.float32))

    def scale(self, action: NDArray[Any]) -> NDArray[Any]:
        """Returns the environment's action for one from -1 to 1."""
        share = (np.clip(action, -1, 1).astype(np.float64) + 1) / 2
        scaled = np.minimum(self._low * (1 - share) + self._high * share, self._high)
        exact: NDArray[Any] = scaled if self._space.dtype.kind == "f" else np.rint(scaled)
        return exact.astype(self._space.dtype)
