"""Action masks in the format of `sb3_contrib.MaskablePPO`: one flat array of bools, True for an allowed value.

A mask is the concatenation of the values of all components of an action: `n` for Discrete, `sum(nvec)` for
MultiDiscrete, and two for each bit of MultiBinary, 0 and then 1.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.errors import InputError

Masks = NDArray[np.bool_]


def value_counts(space: spaces.Space[Any]) -> list[int]:
    """Returns the number of values of each component of an action.

    Raises:
        InputError: a Box, whose actions cannot be masked.
    """
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(size) for size in space.nvec.ravel()]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    name = " ".join(str(space).split())
    raise InputError(f"action masks for {name}: must be for Discrete, MultiDiscrete or MultiBinary actions")


class MaskFormat:
    """The masks of an action space.

    Args:
        space: Action space of a single environment.

    Attributes:
        size: Values of a mask.
        starts: Index of the first value of each component.

    Raises:
        InputError: a Box, whose actions cannot be masked.
    """

    def __init__(self, space: spaces.Space[Any]):
        self._space = space
        self._counts = value_counts(space)
        self.starts: NDArray[np.int64] = np.cumsum([0, *self._counts[:-1]])
        self.size = sum(self._counts)

    def check(self, masks: NDArray[Any] | Sequence[Any], name: Callable[[int], str]) -> Masks:
        """Returns masks as `[B, size]` bool.

        Args:
            masks: B masks of bools, or of the numbers 0 and 1.
            name: Returns the name of the environment of a mask, for errors.

        Raises:
            InputError: a mask of another size or type, or one that allows no action.
        """
        try:
            array = np.asarray(masks)
        except ValueError:  # masks of different sizes
            array = np.empty(0, dtype=object)
        if array.dtype != np.bool_ and _is_binary(array):
            array = array.astype(np.bool_)
        if array.dtype != np.bool_ or array.size != len(masks) * self.size:
            self._reject_first([_as_array(each) for each in masks], name)
        checked: Masks = array.reshape(len(masks), self.size)
        has_value = np.logical_or.reduceat(checked, self.starts, axis=1)
        if not has_value.all():
            self._reject_empty(has_value, name)
        return checked

    def sample(self, masks: Masks, generator: np.random.Generator) -> NDArray[Any]:
        """Returns uniform allowed actions `[B, ...]` for masks `[B, size]`."""
        keys = np.where(masks, generator.random(masks.shape), -1.0)
        parts = [part.argmax(axis=1) for part in np.split(keys, self.starts[1:], axis=1)]
        actions = parts[0] if isinstance(self._space, spaces.Discrete) else np.stack(parts, axis=1)
        start = getattr(self._space, "start", 0)
        return (actions + start).astype(self._space.dtype)

    def _reject_first(self, masks: Sequence[NDArray[Any]], name: Callable[[int], str]) -> NoReturn:
        index = next(index for index, mask in enumerate(masks) if not self._fits(mask))
        mask = masks[index]
        found = f"{mask.size} values of {mask.dtype}"
        if mask.size == self.size:
            found += ", not only 0 and 1" if mask.dtype.kind in "iuf" else ""
        space = " ".join(str(self._space).split())
        raise InputError(
            f"{name(index)}: action mask of {found}; must be one flat array of {self.size} bools, the values of all "
            f"components of {space}"
        )

    def _fits(self, mask: NDArray[Any]) -> bool:
        return mask.size == self.size and (mask.dtype == np.bool_ or _is_binary(mask))

    def _reject_empty(self, has_value: Masks, name: Callable[[int], str]) -> NoReturn:
        index, component = np.argwhere(~has_value)[0].tolist()
        what = "action" if isinstance(self._space, spaces.Discrete) else f"value of component {component} of the action"
        raise InputError(f"{name(index)}: the action mask allows no {what}; end the episode before, or allow one")


def _as_array(mask: Any) -> NDArray[Any]:
    try:
        return np.asarray(mask)
    except ValueError:  # ragged
        return np.asarray(mask, dtype=object)


def _is_binary(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iuf" and bool(((array == 0) | (array == 1)).all())
