"""Turns observations that a policy cannot read (Tuples, nested Dicts, symbolic grids) into ones that it can."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class TupleToMultiDiscrete(gym.ObservationWrapper[NDArray[np.int64], Any, Any], RecordConstructorArgs):
    """Joins a Tuple of Discrete observations into one MultiDiscrete observation."""

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        assert isinstance(space, spaces.Tuple)
        self.observation_space = spaces.MultiDiscrete([int(part.n) for part in space.spaces])  # type: ignore[attr-defined]

    def observation(self, observation: tuple[int, ...]) -> NDArray[np.int64]:
        """Returns the numbers as one array."""
        return np.array(observation, dtype=np.int64)


class GridFeatures(gym.ObservationWrapper[NDArray[np.float32], Any, Any], RecordConstructorArgs):
    """Turns MiniGrid's symbolic view into features: object, colour and state of every cell and the direction, one-hot.

    The mission text is left out: in the memory tasks it never changes.
    """

    SIZES = (11, 6, 4)  # kinds of objects, colours and states
    DIRECTIONS = 4

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        view = env.observation_space["image"]  # type: ignore[index]
        cells = view.shape[0] * view.shape[1]
        self._offsets = np.cumsum([0, *self.SIZES[:-1]]) + sum(self.SIZES) * np.arange(cells)[:, None]  # [cells, 3]
        self._size = cells * sum(self.SIZES)
        self.observation_space = spaces.Box(0, 1, (self._size + self.DIRECTIONS,), np.float32)

    def observation(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Returns the features `[cells * 21 + 4]`."""
        features = np.zeros(self._size + self.DIRECTIONS, dtype=np.float32)
        features[self._offsets + observation["image"].reshape(-1, 3)] = 1
        features[self._size + observation["direction"]] = 1
        return features


def is_grid(space: spaces.Space[Any]) -> bool:
    """Whether a space is MiniGrid's: a symbolic image, a direction and a mission."""
    return isinstance(space, spaces.Dict) and set(space.spaces) == {"image", "direction", "mission"}


def make_readable(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Wraps `env` so that a policy can read its observations, where that is needed."""
    space = env.observation_space
    if is_grid(space):
        return GridFeatures(env)
    if isinstance(space, spaces.Tuple) and all(isinstance(part, spaces.Discrete) for part in space.spaces):
        return TupleToMultiDiscrete(env)
    nested = (spaces.Tuple, spaces.Dict)
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else ()
    if isinstance(space, spaces.Tuple) or any(isinstance(part, nested) for part in parts):
        return gym.wrappers.FlattenObservation(env)
    return env
