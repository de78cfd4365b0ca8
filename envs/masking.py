"""Hides the velocities of classic control tasks, so that they must be remembered or inferred."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from ntm_rl.errors import InputError, did_you_mean

# Which elements of each task's observation are no velocities.
POSITIONS: dict[str, list[int]] = {
    "CartPole": [0, 2],
    "Pendulum": [0, 1],
    "MountainCar": [0],
    "MountainCarContinuous": [0],
    "Acrobot": [0, 1, 2, 3],
    "LunarLander": [0, 1, 4, 6, 7],
    "LunarLanderContinuous": [0, 1, 4, 6, 7],
}


class MaskVelocity(gym.ObservationWrapper[NDArray[np.float32], Any, NDArray[np.float32]], RecordConstructorArgs):
    """Removes the velocities from the observations of CartPole, Pendulum, MountainCar, Acrobot and LunarLander.

    Raises:
        InputError: the environment is none of these.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        name = "" if env.spec is None else env.spec.name
        if name not in POSITIONS:
            valid = ", ".join(POSITIONS)
            raise InputError(
                f"mask_velocity = True: no velocities are known of {name!r}; valid are {valid}."
                f"{did_you_mean(name, POSITIONS)}"
            )
        self._kept = POSITIONS[name]
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        self.observation_space = spaces.Box(space.low[self._kept], space.high[self._kept], dtype=np.float32)

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the positions alone."""
        return observation[self._kept]
