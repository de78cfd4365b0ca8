"""Turns observations that a policy cannot read (Tuples, nested Dicts, symbolic grids) into ones that it can."""

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

Path = tuple[str | int, ...]  # keys and numbers that lead to a part of an observation
NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MAX_ELEMENTS = 2**25  # of one observation, one-hot parts included: more is a mistake, or a damaged or hostile file


class TupleToMultiDiscrete(TransformObservation[NDArray[np.int64], Any, Any], RecordConstructorArgs):
    """Joins a Tuple of Discrete observations into one MultiDiscrete observation, all counted from 0."""

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        space = env.observation_space
        assert isinstance(space, spaces.Tuple)
        joined = spaces.MultiDiscrete([int(part.n) for part in space.spaces])  # type: ignore[attr-defined]
        self._starts = np.array([part.start for part in space.spaces], dtype=np.int64)  # type: ignore[attr-defined]
        TransformObservation.__init__(self, env, func=self.join, observation_space=joined)

    def join(self, observation: tuple[int, ...]) -> NDArray[np.int64]:
        """Returns the numbers as one array."""
        return np.array(observation, dtype=np.int64) - self._starts


class GridFeatures(TransformObservation[NDArray[np.float32], Any, Any], RecordConstructorArgs):
    """Turns MiniGrid's symbolic view into features: object, colour and state of every cell and the direction, one-hot.

    The mission's words follow, one-hot in their order, where it may change from episode to episode (see
    `ntm_rl.envs.wrappers.missions`).

    Args:
        env: The environment to wrap.
        mission: "auto", "words" or "none": see `MissionReader`.
    """

    SIZES = (11, 6, 4)  # kinds of objects, colours and states
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
        told = ["MiniGrid's symbolic view is read as one-hot objects, colours, states and direction"]
        words = self._mission.words
        if words is not None:
            told.append(f"mission: read as {words.places} words, one-hot out of {words.words}")
        else:
            told.append("mission: left out, " + ("though it changes" if self._mission.changes else "it never changes"))
        return told


class ReadableParts(TransformObservation[Any, Any, Any], RecordConstructorArgs):
    """Makes every part of an observation one that a policy reads.

    Images become what `ImageReader` returns, missions words, and numbers that are not plain (not counted from 0, or in
    more than one dimension) a Box in which discrete ones are one-hot. Dicts and Tuples within become parts of one Dict,
    whose keys are joined by `/`, so that an image within stays an image.

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
        """Returns the parts of an observation."""
        parts = {key: reader.read(_at(observation, path)) for key, (path, reader) in self._parts.items()}
        return parts if self._is_nested else parts[""]

    def changes(self) -> list[str]:
        """See `changes_of`."""
        return self._changes


class Reader(Protocol):
    """Makes a part of an observation one that a policy reads."""

    @property
    def space(self) -> spaces.Space[Any]:
        """Of what the policy reads."""

    def read(self, observation: Any, /) -> Any:
        """Returns what the policy reads."""


@dataclass
class AsItIs:
    """Leaves a part as it is."""

    space: spaces.Space[Any]

    def read(self, observation: Any) -> Any:
        """Returns the part."""
        return observation


class Flattened:
    """Makes numbers a Box of one dimension, discrete ones one-hot."""

    def __init__(self, space: spaces.Space[Any]):
        self._original = space
        flat: Any = spaces.flatten_space(space)
        self.space = spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)

    def read(self, observation: Any) -> NDArray[np.float32]:
        """Returns the numbers `[n]`."""
        return np.asarray(spaces.flatten(self._original, observation), dtype=np.float32)


def _reader(space: spaces.Space[Any], mission: Mission) -> tuple[Reader | None, str]:
    """Returns how a part is read, None where it is left out, and what is to be said about it."""
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
        return AsItIs(space), ""
    return Flattened(
        space
    ), f"{' '.join(str(space).split())}, read as {spaces.flatdim(space)} numbers, discrete ones one-hot"


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


def is_grid(env: gym.Env[Any, Any]) -> bool:
    """Whether an environment shows MiniGrid's symbols: an image of cells, and not of pixels, a direction, a mission."""
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or set(space.spaces) != {"image", "direction", "mission"}:
        return False
    # A wrapper may have changed the size of the view; `SymbolicObsWrapper`, of other bounds, shows coordinates.
    view, width, height = (
        env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
        for name in ("agent_view_size", "width", "height")
    )
    image: Any = space["image"]
    return image.shape in ((view, view, 3), (width, height, 3)) and bool((image.high == 255).all())


def make_readable(env: gym.Env[Any, Any], mission: Mission = "auto") -> gym.Env[Any, Any]:
    """Wraps `env` so that a policy can read its observations, where that is needed and possible.

    A symbolic grid becomes `GridFeatures`, a Tuple of numbers one MultiDiscrete, whatever else is not plain
    `ReadableParts`.
    """
    space = env.observation_space
    if is_grid(env):
        return GridFeatures(env, mission)
    if isinstance(space, spaces.Tuple) and all(isinstance(part, spaces.Discrete) for part in space.spaces):
        return TupleToMultiDiscrete(env)
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    return env if all(map(_is_read_as_it_is, parts)) else ReadableParts(env, mission)


def changes_of(env: gym.Env[Any, Any]) -> list[str]:
    """Returns what the wrappers of an environment make of its observations, a line each: what a user should know."""
    told: list[str] = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, (GridFeatures, ReadableParts)):
            told += env.changes()
        env = env.env
    return told


def _is_read_as_it_is(space: spaces.Space[Any]) -> bool:
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return not all(isinstance(part, NUMERIC) or is_mission(part) for _, part in _leaves(space))  # refused as it is
    reader, change = _reader(space, "auto")
    return isinstance(reader, AsItIs) or (isinstance(reader, ImageReader) and not change)


def _leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    """Returns the parts of a space that are neither Dict nor Tuple, and the way to each."""
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
    """Returns a copy of one environment's part of batched observations, as Gymnasium batches them."""
    if isinstance(observations, dict):
        return {key: row(part, index) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(row(part, index) for part in observations)
    part = observations[index]
    return part.copy() if isinstance(part, np.ndarray) else part
