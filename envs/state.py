"""States of environments, so that a training goes on in the very step in which it was interrupted.

A state is a tree of dicts whose leaves are NumPy arrays and JSON values. A vector environment that has `get_state` has
`set_state` too, which takes a state of an environment made with the same arguments, checks all of it before anything
changes (a file may hold anything), and returns what the copies see now.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ntm_rl.errors import InputError

State = dict[str, Any]


@runtime_checkable
class Resumable(Protocol):
    """A vector environment whose state can be had."""

    def get_state(self) -> State | None:
        """Returns the state of all copies, which later steps do not change; None: it cannot be had."""

    def set_state(self, state: Mapping[str, Any]) -> Any:
        """Puts a state back and returns the observations.

        Raises:
            InputError: it is no state of such an environment.
        """


def array_of(
    state: Mapping[str, Any], name: str, like: NDArray[Any], low: Any = -np.inf, high: Any = np.inf
) -> NDArray[Any]:
    """Returns a copy of an array of a state.

    Raises:
        InputError: it has not the shape and type of `like`, or numbers outside of `low` to `high`, which may be arrays.
    """
    array = state.get(name)
    if not isinstance(array, np.ndarray) or array.shape != like.shape or array.dtype != like.dtype:
        raise InputError(f"state {name!r}: must be an array {list(like.shape)} of {like.dtype}")
    is_within = np.isfinite(array) & (array >= low) & (array <= high)
    if not is_within.all():
        raise InputError(f"state {name!r}: holds numbers outside of {low} to {high}")
    return array.copy()


def part_of(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a dict within a state.

    Raises:
        InputError: there is none.
    """
    part = state.get(name)
    if not isinstance(part, Mapping):
        raise InputError(f"state {name!r}: must be a mapping")
    return part


def generator_state(generator: np.random.Generator) -> State:
    """Returns the state of a random generator."""
    return dict(generator.bit_generator.state)


def generator_of(state: Any) -> np.random.Generator:
    """Returns a new random generator in a state.

    Raises:
        InputError: it is none of PCG64, which is what Gymnasium and NumPy make.
    """
    generator = np.random.PCG64()
    try:
        generator.state = state
    except Exception as error:  # whatever hostile values make NumPy raise
        raise InputError(f"state of a generator: {error!r}") from error
    return np.random.Generator(generator)


def generators_of(state: Mapping[str, Any], count: int) -> list[np.random.Generator]:
    """Returns new random generators in the states of a list.

    Raises:
        InputError: it is no list of so many.
    """
    saved = state.get("generators")
    if not isinstance(saved, list) or len(saved) != count:
        raise InputError(f"state 'generators': must be a list of {count}")
    return list(map(generator_of, saved))
