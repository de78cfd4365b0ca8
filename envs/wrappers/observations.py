"""Converts observations that policies do not support: Tuples, nested Dicts, symbolic grids and missions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TransformObservation
from numpy.typing import NDArray

from ntm_rl.envs.wrappers.images import ImageReader
from ntm_rl.envs.wrappers.missions import Mission, MissionReader, is_mission
from ntm_rl.errors import InputError

Path = tuple[str | int, ...]  # keys and indices of a part of an observation
NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MAX_ELEMENTS = 2**25  # of an observation, one-hot parts included; guards against mistakes and damaged files


class TupleToMultiDiscrete(TransformObservation[NDArray[np.int64], Any, Any], RecordConstructorArgs):
    """Converts a Tuple of Discrete observations to a MultiDiscrete observation that starts at 0."""

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        space = env.observation_space
        assert isinstance(space, spaces.Tuple)
        joined = spaces.MultiDiscrete([int(part.n) for part in space.spaces])  # type: ignore[attr-defined]
        self._starts = np.array([part.start for part in space.spaces], dtype=np.int64)  # type: ignore[attr-defined]
        TransformObservation.__init__(self, env, func=self.join, observation_space=joined)

    def join(self, observation: tuple[int, ...]) -> NDArray[np.int64]:
        """Returns the observation as an array."""
        return np.array(observation, dtype=np.int64) - self._starts


class GridFeatures(TransformObservation[NDArray[np.float32], Any, Any], RecordConstructorArgs):
    """Encodes MiniGrid's symbolic view as one-hot features: object, colour and state of every cell, and the direction.

    The words of the mission follow if it may change between episodes (see `ntm_rl.envs.wrappers.missions`).

    Args:
        env: The environment to wrap.
        mission: "auto", "words" or "none": see `MissionReader`.
    """

    SIZES = (11, 6, 4)  # number of objects, colours and states
    DIRECTIONS = 4

    def __init__(self, env: gym.Env[Any, Any], mission: Mission = "auto"):
        RecordConstructorArgs.__init__(self, mission=mission)
        space: Any = env.observation_space
        cells = space["image"].shape[0] * space["image"].shape[1]
        self._offsets = np.cumsum([0, *self.SIZES[:-1]]) + sum(self.SIZES) * np.arange(cells)[:, None]  # [cells, 3]
        self._size = cells * sum(self.SIZES)
        self._mission = MissionReader(space["mission"], mission)
        size = self._size + self.DIRECTIONS + self._mission.size
        TransformObservation.__init__(
            self, env, func=self.one_hot, observation_space=spaces.Box(0, 1, (size,), np.float32)
        )

    def one_hot(self, observation: dict[str, Any]) -> NDArray[np.float32]:
        """Returns the features `[cells * 21 + 4 + words]`."""
        features = np.zeros(self._size + self.DIRECTIONS, dtype=np.float32)
        features[self._offsets + observation["image"].reshape(-1, 3)] = 1
        features[self._size + observation["direction"]] = 1
        return np.concatenate([features, self._mission.read(observation["mission"])])

    def changes(self) -> list[str]:
        """See `changes_of`."""
        lines = ["MiniGrid's symbolic view is read as one-hot objects, colours, states and direction"]
        words = self._mission.words
        if words is not None:
            lines.append(f"mission: read as {words.places} words, one-hot out of {words.words}")
        else:
            lines.append("mission: left out, " + ("though it changes" if self._mission.changes else "it never changes"))
        return lines


class ReadableParts(TransformObservation[Any, Any, Any], RecordConstructorArgs):
    """Converts every part of an observation to a space that policies support.

    `ImageReader` converts images and `MissionReader` missions; discrete parts that do not start at 0 or have several
    dimensions become one-hot Boxes. Nested Dicts and Tuples become one Dict with keys joined by `/`, in which images
    stay images.

    Args:
        env: The environment to wrap.
        mission: "auto", "words" or "none": see `MissionReader`.

    Raises:
        InputError: two parts have the same joined key.
    """

    def __init__(self, env: gym.Env[Any, Any], mission: Mission = "auto"):
        RecordConstructorArgs.__init__(self, mission=mission)
        self._parts: dict[str, tuple[Path, Reader]] = {}
        self._is_nested = isinstance(env.observation_space, (spaces.Dict, spaces.Tuple))
        self._changes: list[str] = []
        for path, part in _leaves(env.observation_space):
            key = "/".join(map(str, path))
            if key in self._parts:
                raise InputError(
                    f"observation {key!r}: two parts of {env.observation_space} have this joined key; rename one"
                )
            reader, change = _reader(part, mission)
            if change:
                self._changes.append(f"{key}: {change}" if key else change)
            if reader is not None:
                self._parts[key] = path, reader
        read = {key: reader.space for key, (_, reader) in self._parts.items()}
        space: spaces.Space[Any] = spaces.Dict(read) if self._is_nested else read[""]
        TransformObservation.__init__(self, env, func=self.read, observation_space=space)

    def read(self, observation: Any) -> Any:
        """Returns the converted observation."""
        parts = {key: reader.read(_at(observation, path)) for key, (path, reader) in self._parts.items()}
        return parts if self._is_nested else parts[""]

    def changes(self) -> list[str]:
        """See `changes_of`."""
        return self._changes


class Reader(Protocol):
    """Converts a part of an observation to a space that policies support."""

    @property
    def space(self) -> spaces.Space[Any]:
        """Space of the converted part."""

    def read(self, observation: Any, /) -> Any:
        """Returns the converted part."""


@dataclass
class Identity:
    """Leaves a part as it is."""

    space: spaces.Space[Any]

    def read(self, observation: Any) -> Any:
        """Returns the part."""
        return observation


class Flattened:
    """Flattens a numeric part to a one-dimensional Box, with discrete elements one-hot."""

    def __init__(self, space: spaces.Space[Any]):
        self._original = space
        flat: Any = spaces.flatten_space(space)
        self.space = spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)

    def read(self, observation: Any) -> NDArray[np.float32]:
        """Returns the flattened part, `[n]`."""
        return np.asarray(spaces.flatten(self._original, observation), dtype=np.float32)


def _reader(space: spaces.Space[Any], mission: Mission) -> tuple[Reader | None, str]:
    """Returns the reader of a part, None if it is dropped, and a description of the change."""
    if is_mission(space):
        missions = MissionReader(space, mission)
        if missions.words is None:
            return None, "left out, " + ("though it changes" if missions.changes else "it never changes")
        words = missions.words
        return missions, f"read as {words.places} words, one-hot out of {words.words}"
    if ImageReader.fits(space):
        image = ImageReader(space)  # type: ignore[arg-type]
        return image, f"image {_size(space)}, read as {_size(image.space)}" if image.changes else ""
    if is_plain(space) or not isinstance(space, NUMERIC):
        return Identity(space), ""
    text = " ".join(str(space).split())
    return Flattened(space), f"{text}, read as {spaces.flatdim(space)} numbers, discrete ones one-hot"


def is_plain(space: spaces.Space[Any]) -> bool:
    """Whether policies support a space unchanged: a Box, or discrete with start 0 and at most one dimension."""
    match space:
        case spaces.Discrete():
            return int(space.start) == 0
        case spaces.MultiDiscrete():
            return space.nvec.ndim == 1 and not space.start.any()
        case spaces.MultiBinary():
            return len(space.shape) == 1
    return isinstance(space, spaces.Box)


def is_grid(env: gym.Env[Any, Any]) -> bool:
    """Whether the observation is MiniGrid's symbolic view: an image of cells, a direction and a mission."""
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or set(space.spaces) != {"image", "direction", "mission"}:
        return False
    # Wrappers may change the view's size; `SymbolicObsWrapper`, with other bounds, contains coordinates.
    view, width, height = (
        env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
        for name in ("agent_view_size", "width", "height")
    )
    image: Any = space["image"]
    return image.shape in ((view, view, 3), (width, height, 3)) and bool((image.high == 255).all())


def make_readable(env: gym.Env[Any, Any], mission: Mission = "auto") -> gym.Env[Any, Any]:
    """Wraps `env` so that policies support its observations, if needed and possible.

    Symbolic grids are wrapped in `GridFeatures`, Tuples of Discrete in `TupleToMultiDiscrete`, and others that policies
    do not support in `ReadableParts`.
    """
    space = env.observation_space
    if is_grid(env):
        return GridFeatures(env, mission)
    if isinstance(space, spaces.Tuple) and all(isinstance(part, spaces.Discrete) for part in space.spaces):
        return TupleToMultiDiscrete(env)
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    return env if all(map(_is_supported, parts)) else ReadableParts(env, mission)


def changes_of(env: gym.Env[Any, Any]) -> list[str]:
    """Describes the changes that the wrappers of an environment make to its observations, a line each."""
    lines: list[str] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, (GridFeatures, ReadableParts)):
            lines += env.changes()
        env = env.env
    return lines


def _is_supported(space: spaces.Space[Any]) -> bool:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return not all(isinstance(part, NUMERIC) or is_mission(part) for _, part in _leaves(space))  # rejected later
    reader, change = _reader(space, "auto")
    return isinstance(reader, Identity) or (isinstance(reader, ImageReader) and not change)


def _leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    """Yields the path and space of every part that is neither a Dict nor a Tuple."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _leaves(part, (*path, index))
    else:
        yield path, space


def _at(observation: Any, path: Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _size(space: spaces.Space[Any]) -> str:
    return f"{list(space.shape or ())} {space.dtype}"


def row(observations: Any, index: int) -> Any:
    """Returns a copy of one sub-environment's observation from Gymnasium's batched observations."""
    if isinstance(observations, dict):
        return {key: row(part, index) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(row(part, index) for part in observations)
    part = observations[index]
    return part.copy() if isinstance(part, np.ndarray) else part
