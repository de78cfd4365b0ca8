"""Names of observations and actions for display."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import EnumMeta
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.inspection.notes import print_once
from ntm_rl.envs.wrappers.images import is_image

ACTIONS = ("action_names", "action_meanings", "actions")  # attributes of environments, the first that fits counts
OBSERVATIONS = ("observation_names",)
DOCUMENTED = ("observation_names", "action_names")  # others may have another meaning in an environment


@dataclass(frozen=True)
class Part:
    """A part of an observation as numbers.

    Attributes:
        name: The key of a Dict, or "observation".
        key: The key in a Dict observation; None for the whole observation.
        space: Its space.
        labels: A name for each number: of the elements of an array, or of the values of a Discrete.
    """

    name: str
    key: str | None
    space: spaces.Space[Any]
    labels: tuple[str, ...]

    def numbers(self, observation: Any) -> NDArray[np.float32]:
        """Returns the numbers of the first of a batch of observations; a Discrete is one-hot."""
        value = self.array(observation)
        if isinstance(self.space, spaces.Discrete):
            value = np.arange(self.space.n) + self.space.start == value
        numbers: NDArray[np.float32] = value.astype(np.float32).reshape(-1)
        return numbers

    def array(self, observation: Any) -> NDArray[Any]:
        """Returns this part of the first of a batch of observations."""
        array: NDArray[Any] = np.asarray(observation if self.key is None else observation[self.key])[0]
        return array

    @property
    def is_image(self) -> bool:
        """Whether it is an image."""
        return is_image(self.space)


def observation_parts(env: VecEnv) -> list[Part]:
    """Returns the parts of an environment's observations, with the names that it gives as `observation_names`."""
    space = env.observation_space
    if not isinstance(space, spaces.Dict):
        return [Part("observation", None, space, labels_of(space, _attribute(env, OBSERVATIONS, space)))]
    own_names: dict[str, tuple[str, ...] | None] = {}
    if "observation" in space.spaces:
        own_names["observation"] = _attribute(env, OBSERVATIONS, space["observation"])
    if "previous_action" in space.spaces:
        own_names["previous_action"] = action_names(env)
    return [Part(key, key, part, labels_of(part, own_names.get(key))) for key, part in space.spaces.items()]


def action_names(env: VecEnv) -> tuple[str, ...] | None:
    """Returns the names of an environment's discrete actions; None if it gives none that fit."""
    return _attribute(env, ACTIONS, env.action_space)


def labels_of(space: spaces.Space[Any], names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the given names if there is one for each number of a space, else indices."""
    size = _size(space)
    if names is not None and len(names) == size:
        return tuple(names)
    start = int(space.start) if isinstance(space, spaces.Discrete) else 0
    return tuple(str(start + index) for index in range(size))


def _size(space: spaces.Space[Any]) -> int:
    """Returns the number of values of a Discrete, or of elements of an array."""
    return int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))


def _attribute(env: VecEnv, attributes: Sequence[str], space: spaces.Space[Any]) -> tuple[str, ...] | None:
    """Returns the first of some attributes of an environment that names each number of a space."""
    size = _size(space)
    for attribute in attributes:
        try:
            (value, *_) = env.get_attr(attribute)
        except Exception:  # missing, or it fails in the user's code
            continue
        names = _names(value)
        if names is not None and len(names) == size:
            return names
        if attribute in DOCUMENTED and value is not None and names != ():
            found = f"type {type(value).__name__}" if names is None else f"length {len(names):,}"
            print_once(f"note: {attribute} of {found} is ignored: must be {size:,} strings, as the space is {space}")
    return None


def _names(value: Any) -> tuple[str, ...] | None:
    """Returns an attribute as names; None if it is no sequence of strings."""
    if isinstance(value, EnumMeta):
        return tuple(str(each.name).replace("_", " ") for each in value)  # type: ignore[var-annotated]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    is_sequence = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(value) if is_sequence and all(isinstance(each, str) for each in value) else None
