"""Validates values against Gymnasium spaces and converts them to the shape and type of the space."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

TOLERANCE = 1e-5  # relative tolerance of the bounds of floats, for rounding


class MismatchError(ValueError):
    """A value is not an element of its space."""


def conform(space: spaces.Space[Any], value: Any, bounds: bool = False, name: str = "observation") -> Any:
    """Returns `value` in the shape and type of `space`.

    Lists and numbers become arrays, axes of length 1 are added or removed, and floats change their precision; nothing
    else is converted. Spaces without a fixed shape, such as Text, are only checked with `bounds`.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them; others use `Space.contains`.
        value: The value.
        bounds: Also check the bounds of Boxes and reject unknown keys of Dicts.
        name: Name of the value in the error message.

    Raises:
        MismatchError: the value is not an element of the space.
    """
    match space:
        case spaces.Box() | spaces.MultiBinary():
            return _array(space, value, bounds, name)
        case spaces.Discrete():
            return _number(space, value, name)
        case spaces.MultiDiscrete():
            return _numbers(space, value, name)
        case spaces.Dict():
            return _dict(space, value, bounds, name)
        case spaces.Tuple():
            return _tuple(space, value, bounds, name)
    if bounds and not space.contains(value):
        raise MismatchError(f"{name} {_brief(value)} is not in {space}")
    return value


def shape_of(value: Any) -> str:
    """Describes a value for an error message."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and type {value.dtype}"
    if isinstance(value, (tuple, list)):
        return f"{'a tuple' if isinstance(value, tuple) else 'a list'} of {len(value)}"
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return _brief(value)
    return f"of type {type(value).__name__}"


def _array(space: spaces.Box | spaces.MultiBinary, value: Any, bounds: bool, name: str) -> NDArray[Any]:
    expected = space.dtype
    assert expected is not None
    if type(value) is np.ndarray and value.shape == space.shape and value.dtype == expected:
        array = value
    else:
        array = _as_array(value, name)
        _check_kind(array.dtype, expected, f"{name} is {shape_of(value)}, its space {space}")
        if array.shape != space.shape:
            array = _reshaped(array, space, name)
        if array.dtype != expected:
            bounds = bounds or expected.kind in "iu"  # integers out of range would wrap around
    if bounds and isinstance(space, spaces.Box):
        _check_bounds(array, space, name)
    return array.astype(expected, copy=False)


def _as_array(value: Any, name: str) -> NDArray[Any]:
    if value is None:
        raise MismatchError(f"{name} is None")
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists, tensors on another device
        raise MismatchError(f"{name} is {shape_of(value)}, no array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise MismatchError(f"{name} is {shape_of(value)}, which is not numeric")
    return array


def _check_kind(found: np.dtype[Any], expected: np.dtype[Any], description: str) -> None:
    if found.kind == "f" and expected.kind != "f":
        raise MismatchError(f"{description}: {found} would be cut to {expected}")


def _reshaped(array: NDArray[Any], space: spaces.Space[Any], name: str) -> NDArray[Any]:
    shape = space.shape or ()
    if [size for size in array.shape if size != 1] != [size for size in shape if size != 1]:
        raise MismatchError(f"{name} has shape {array.shape}, its space {space} has {shape}")
    return array.reshape(shape)


def _check_bounds(array: NDArray[Any], space: spaces.Box, name: str) -> None:
    is_float = array.dtype.kind == "f"
    for bound, side, is_outside in ((space.low, "below", np.less), (space.high, "above", np.greater)):
        tolerance = TOLERANCE * np.maximum(1.0, np.abs(bound)) if is_float else 0
        limit = bound - tolerance if side == "below" else bound + tolerance
        wrong = np.argwhere(is_outside(array, limit) | np.isnan(array))
        if len(wrong):
            index = tuple(wrong[0].tolist())
            where = f"{name}{list(index) if index else ''}"
            relation = "not a number" if np.isnan(array[index]) else f"{side} its bound {bound[index]}"
            raise MismatchError(f"{where} = {array[index]} is {relation} in {space}")


def _number(space: spaces.Discrete, value: Any, name: str) -> Any:
    if type(value) is not int and type(value) is not np.int64:
        array = _as_array(value, name)
        if array.size != 1 or array.dtype.kind == "f":
            raise MismatchError(f"{name} is {shape_of(value)}, its space {space} takes a single integer")
        value = space.dtype.type(array.reshape(()).item())
    if not space.start <= value < space.start + space.n:
        raise MismatchError(f"{name} = {value} is not in {space}")
    return value


def _numbers(space: spaces.MultiDiscrete, value: Any, name: str) -> NDArray[Any]:
    array = value
    if type(value) is not np.ndarray or value.shape != space.shape or value.dtype != space.dtype:
        array = _as_array(value, name)
        if array.dtype.kind == "f":
            raise MismatchError(f"{name} is {shape_of(value)}, its space {space} takes integers")
        if array.shape != space.shape:
            array = _reshaped(array, space, name)
        array = array.astype(space.dtype, copy=False)
    numbers, sizes, starts = (each.ravel().tolist() for each in (array, space.nvec, space.start))
    for index, (number, size, start) in enumerate(zip(numbers, sizes, starts, strict=True)):
        if not start <= number < start + size:
            raise MismatchError(f"{name}[{index}] = {number} is not in {start} to {start + size - 1} of {space}")
    return array  # type: ignore[no-any-return]


def _dict(space: spaces.Dict, value: Any, bounds: bool, name: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise MismatchError(f"{name} is {shape_of(value)}, its space is a Dict of {list(space.spaces)}")
    for key in space.spaces:
        if key not in value:
            raise MismatchError(f"{name} has no {key!r}; its space is a Dict of {list(space.spaces)}")
    unknown = [key for key in value if key not in space.spaces] if bounds else []
    if unknown:
        raise MismatchError(f"{name} has the unknown key {unknown[0]!r}; its space is a Dict of {list(space.spaces)}")
    return {key: conform(part, value[key], bounds, f"{name}[{key!r}]") for key, part in space.spaces.items()}


def _tuple(space: spaces.Tuple[Any], value: Any, bounds: bool, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != len(space.spaces):
        raise MismatchError(f"{name} is {shape_of(value)}, its space a Tuple of {len(space.spaces)}")
    pairs = enumerate(zip(space.spaces, value, strict=True))
    return tuple(conform(part, each, bounds, f"{name}[{index}]") for index, (part, each) in pairs)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
