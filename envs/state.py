"""States of environments, so that a training resumes exactly where it was interrupted.

A state is a tree of dicts whose leaves are NumPy arrays and JSON values. Vector environments with `get_state` also have
`set_state`, which takes the state of an environment with the same arguments and returns the current observations. A
state may come from a damaged or hostile file, so all of it is validated before any change.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ntm_rl.errors import InputError

State = dict[str, Any]


@runtime_checkable
class Resumable(Protocol):
    """A vector environment whose state can be saved and restored."""

    def get_state(self) -> State | None:
        """Returns a copy of the state; None if the environment cannot save it."""

    def set_state(self, state: Mapping[str, Any]) -> Any:
        """Restores a state and returns the observations.

        Raises:
            InputError: the state is not one of such an environment.
        """


def array_of(
    state: Mapping[str, Any], name: str, like: NDArray[Any], low: Any = -np.inf, high: Any = np.inf
) -> NDArray[Any]:
    """Returns a copy of an array in a state.

    Raises:
        InputError: it lacks the shape and type of `like`, or has values outside `low` to `high`, which may be arrays.
    """
    array = state.get(name)
    if not isinstance(array, np.ndarray) or array.shape != like.shape or array.dtype != like.dtype:
        raise InputError(f"state {name!r}: must be an array {list(like.shape)} of {like.dtype}")
    is_within = np.isfinite(array) & (array >= low) & (array <= high)
    if not is_within.all():
        raise InputError(f"state {name!r}: must be from {low} to {high}")
    return array.copy()


def part_of(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a dict in a state.

    Raises:
        InputError: it is missing or not a mapping.
    """
    part = state.get(name)
    if not isinstance(part, Mapping):
        raise InputError(f"state {name!r}: must be a mapping")
    return part


def generator_state(generator: np.random.Generator) -> State:
    """Returns the state of a random generator."""
    return dict(generator.bit_generator.state)


def generator_of(state: Any) -> np.random.Generator:
    """Returns a random generator with the given state.

    Raises:
        InputError: it is not a state of PCG64, the default of Gymnasium and NumPy.
    """
    generator = np.random.PCG64()
    try:
        generator.state = state
    except Exception as error:  # NumPy raises various errors for invalid values
        raise InputError(f"state of a generator: {error!r}") from error
    return np.random.Generator(generator)


def generators_of(state: Mapping[str, Any], count: int) -> list[np.random.Generator]:
    """Returns random generators with the states in `state["generators"]`.

    Raises:
        InputError: it is not a list of `count` states.
    """
    saved = state.get("generators")
    if not isinstance(saved, list) or len(saved) != count:
        raise InputError(f"state 'generators': must be a list of {count}")
    return list(map(generator_of, saved))
