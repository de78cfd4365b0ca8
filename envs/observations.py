"""Turns observations that a policy cannot read (Tuples, nested Dicts, symbolic grids) into ones that it can."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import FlattenObservation, TransformObservation
from numpy.typing import NDArray

MAX_ELEMENTS = 2**25  # of one observation, one-hot parts included: more is a mistake, or a damaged or hostile file


class TupleToMultiDiscrete(TransformObservation[NDArray[np.int64], Any, Any], RecordConstructorArgs):
    """Joins a Tuple of Discrete observations, each counted from 0, into one MultiDiscrete observation."""

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        space = env.observation_space
        assert isinstance(space, spaces.Tuple)
        joined = spaces.MultiDiscrete([int(part.n) for part in space.spaces])  # type: ignore[attr-defined]
        TransformObservation.__init__(self, env, func=self.join, observation_space=joined)

    def join(self, observation: tuple[int, ...]) -> NDArray[np.int64]:
        """Returns the numbers as one array."""
        return np.array(observation, dtype=np.int64)


class GridFeatures(TransformObservation[NDArray[np.float32], Any, Any], RecordConstructorArgs):
    """Turns MiniGrid's symbolic view into features: object, colour and state of every cell and the direction, one-hot.

    The mission text is left out: in the memory tasks it never changes.
    """

    SIZES = (11, 6, 4)  # kinds of objects, colours and states
    DIRECTIONS = 4

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        view = env.observation_space["image"]  # type: ignore[index]
        cells = view.shape[0] * view.shape[1]
        self._offsets = np.cumsum([0, *self.SIZES[:-1]]) + sum(self.SIZES) * np.arange(cells)[:, None]  # [cells, 3]
        self._size = cells * sum(self.SIZES)
        features = spaces.Box(0, 1, (self._size + self.DIRECTIONS,), np.float32)
        TransformObservation.__init__(self, env, func=self.one_hot, observation_space=features)

    def one_hot(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Returns the features `[cells * 21 + 4]`."""
        features = np.zeros(self._size + self.DIRECTIONS, dtype=np.float32)
        features[self._offsets + observation["image"].reshape(-1, 3)] = 1
        features[self._size + observation["direction"]] = 1
        return features


def is_grid(space: spaces.Space[Any]) -> bool:
    """Whether a space is MiniGrid's: a symbolic image, a direction and a mission."""
    return isinstance(space, spaces.Dict) and set(space.spaces) == {"image", "direction", "mission"}


def is_plain(space: spaces.Space[Any]) -> bool:
    """Whether policies read or act in a space as it is: a Box, or numbers counted from 0 in at most one dimension."""
    match space:
        case spaces.Discrete():
            return int(space.start) == 0
        case spaces.MultiDiscrete():
            return space.nvec.ndim == 1 and not space.start.any()
        case spaces.MultiBinary():
            return len(space.shape) == 1
    return isinstance(space, spaces.Box)


def make_readable(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Wraps `env` so that a policy can read its observations, where that is needed and possible.

    A symbolic grid becomes `GridFeatures`, a Tuple of numbers one MultiDiscrete, and whatever else is not plain (a
    mixed Tuple, a nested Dict, numbers that do not start at 0) one flat Box in which discrete parts are one-hot.
    """
    space = env.observation_space
    if is_grid(space):
        return GridFeatures(env)
    if isinstance(space, spaces.Tuple) and all(isinstance(part, spaces.Discrete) for part in space.spaces):
        return TupleToMultiDiscrete(env) if all(map(is_plain, space.spaces)) else FlattenObservation(env)
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    return env if all(map(is_plain, parts)) or not _is_numeric(space) else FlattenObservation(env)


def _is_numeric(space: spaces.Space[Any]) -> bool:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return all(map(_is_numeric, parts))
    return isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))


def row(observations: Any, index: int) -> Any:
    """Returns a copy of one environment's part of batched observations, as Gymnasium batches them."""
    if isinstance(observations, dict):
        return {key: row(part, index) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(row(part, index) for part in observations)
    part = observations[index]
    return part.copy() if isinstance(part, np.ndarray) else part
