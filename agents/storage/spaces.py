"""Gymnasium spaces as exact JSON, including bounds, infinities and dtypes."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from ntm_rl.envs.wrappers.observations import MAX_ELEMENTS
from ntm_rl.errors import InputError


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Returns a JSON description of a Box, Discrete, MultiDiscrete, MultiBinary or a Dict of these.

    Raises:
        InputError: any other space.
    """
    match space:
        case spaces.Box():
            return {
                "type": "Box",
                "low": _bound_to_json(space.low),
                "high": _bound_to_json(space.high),
                "shape": list(space.shape),
                "dtype": str(space.dtype),
            }
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            sizes = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"type": "MultiDiscrete", **sizes, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
        case spaces.Dict() if all(isinstance(key, str) for key in space.spaces):
            # JSON objects have no order, but the features have the order of the keys.
            parts = {key: space_to_json(part) for key, part in space.spaces.items()}
            return {"type": "Dict", "keys": list(parts), "spaces": parts}
    raise InputError(
        f"space = {space}: cannot be saved; valid are Box, Discrete, MultiDiscrete, MultiBinary, and Dict with str keys"
    )


def space_from_json(description: Mapping[str, Any], max_elements: int = MAX_ELEMENTS) -> spaces.Space[Any]:
    """Rebuilds a space from the description of `space_to_json`.

    Args:
        description: The description, which may be hostile.
        max_elements: Largest size of an element of the space; checked before anything of that size is made.

    Raises:
        InputError: not a description of a space, or of a larger one.
    """
    try:
        if _elements(description) > max_elements:
            raise ValueError(f"more than {max_elements:,} elements")
        return _build(description)
    except InputError:
        raise
    except Exception as error:  # a hostile description makes Gymnasium raise anything
        raise InputError(f"space = {str(description)[:200]}: not a description of a space: {error}") from error


def _elements(description: Mapping[str, Any]) -> int:
    """Returns the size of an element of the space without building it."""
    match description["type"]:
        case "Box" | "MultiBinary":
            size = description["shape"] if description["type"] == "Box" else description["n"]
            return math.prod(_at_least_1(part) for part in (size if isinstance(size, list) else [size]))
        case "Discrete":
            return _at_least_1(description["n"])  # one-hot, in front of a network
        case "MultiDiscrete":
            return sum(_at_least_1(n) for n in np.array(description["nvec"]).ravel())
        case "Dict":
            return sum(_elements(part) for part in description["spaces"].values())
    raise InputError(f"space = {str(description)[:200]}: unknown type of space")


def _build(description: Mapping[str, Any]) -> spaces.Space[Any]:
    match description["type"]:
        case "Box":
            shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
            if dtype.kind not in "fiub":
                raise ValueError(f"dtype {dtype}")
            low, high = (_bound_from_json(description[key], shape, dtype) for key in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            start = int(description.get("start", 0))
            return spaces.Discrete(description["n"], start=start, dtype=_integers(description))
        case "MultiDiscrete":
            starts, dtype = description.get("start"), _integers(description)
            starts = None if starts is None else np.array(starts, dtype=dtype)
            return spaces.MultiDiscrete(np.array(description["nvec"], dtype=dtype), dtype=dtype, start=starts)
        case "MultiBinary":
            return spaces.MultiBinary(description["n"])
    parts = description["spaces"]
    keys = description.get("keys", sorted(parts))
    if sorted(keys) != sorted(parts):
        raise ValueError(f"keys {keys} of spaces {list(parts)}")
    return spaces.Dict([(key, _build(parts[key])) for key in keys])


def _bound_to_json(bound: np.ndarray) -> Any:
    # As text, since JSON has no infinity; equal bounds, such as an image's, are written once.
    texts = np.vectorize(str, otypes=[object])(bound)
    first = texts.flat[0] if bound.size else "0"
    return first if (texts == first).all() else texts.ravel().tolist()


def _bound_from_json(text: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if isinstance(text, str):
        return np.full(shape, _number(text, dtype))
    return np.array([_number(part, dtype) for part in text], dtype=dtype).reshape(shape)


def _number(text: Any, dtype: np.dtype) -> Any:
    if dtype.kind == "b":  # bool("False") is True
        return {"True": True, "False": False}[text]
    return dtype.type(text)


def _integers(description: Mapping[str, Any]) -> Any:
    dtype = np.dtype(description.get("dtype", "int64"))
    if dtype.kind not in "iu":
        raise ValueError(f"dtype {dtype}")
    return dtype.type


def _at_least_1(number: Any) -> int:
    if not isinstance(number, (int, np.integer)) or number < 1:
        raise ValueError(f"size {number}")
    return int(number)
