"""Hides the velocities of classic control tasks, so that an agent must infer them from memory."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TransformObservation
from numpy.typing import NDArray

from ntm_rl.errors import InputError, did_you_mean

# Indices of the observation that are not velocities, by task.
POSITIONS: dict[str, list[int]] = {
    "CartPole": [0, 2],
    "Pendulum": [0, 1],
    "MountainCar": [0],
    "MountainCarContinuous": [0],
    "Acrobot": [0, 1, 2, 3],
    "LunarLander": [0, 1, 4, 6, 7],
    "LunarLanderContinuous": [0, 1, 4, 6, 7],
}


class MaskVelocity(TransformObservation[NDArray[np.float32], Any, NDArray[np.float32]], RecordConstructorArgs):
    """Removes the velocities from the observations of CartPole, Pendulum, MountainCar, Acrobot and LunarLander.

    For a vector environment with `AutoresetMode.DISABLED`, use
    `gymnasium.wrappers.vector.VectorizeTransformObservation(envs, MaskVelocity, task="CartPole")`.

    Args:
        env: The environment to wrap.
        task: Name of the task; None: from the environment's id.

    Raises:
        InputError: unknown task.
    """

    def __init__(self, env: gym.Env[Any, Any], task: str | None = None):
        RecordConstructorArgs.__init__(self, task=task)
        if task is None:
            task = "" if env.spec is None else env.spec.name
        if task not in POSITIONS:
            valid = ", ".join(POSITIONS)
            raise InputError(
                f"mask_velocity = True: not supported for {task!r}; valid are {valid}.{did_you_mean(task, POSITIONS)}"
            )
        self._kept = kept = POSITIONS[task]
        space = env.observation_space
        assert isinstance(space, spaces.Box)
        masked = spaces.Box(space.low[kept], space.high[kept], dtype=np.float32)
        TransformObservation.__init__(self, env, func=self.mask, observation_space=masked)

    def mask(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the observation without velocities."""
        return observation[self._kept]
