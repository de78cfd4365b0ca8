"""Gymnasium spaces as JSON, exactly: bounds, infinities and types included."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from ntm_rl.errors import InputError

MAX_ELEMENTS = 10**8  # of one observation: more is a damaged or hostile file, not a space


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
            return {"type": "Discrete", "n": int(space.n)}
        case spaces.MultiDiscrete():
            return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
        case spaces.Dict():
            return {"type": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    raise InputError(f"space = {space}: cannot be saved; valid are Box, Discrete, MultiDiscrete, MultiBinary, Dict")


def space_from_json(description: Mapping[str, Any]) -> spaces.Space[Any]:
    """Rebuilds a space that `space_to_json` described.

    Raises:
        InputError: the description is not one of those.
    """
    try:
        match description["type"]:
            case "Box":
                shape = tuple(int(size) for size in description["shape"])
                if any(size < 1 for size in shape) or np.prod(shape, dtype=object) > MAX_ELEMENTS:
                    raise ValueError(f"shape {shape}")
                dtype = np.dtype(description["dtype"])
                low, high = (_bound_from_json(description[key], shape, dtype) for key in ("low", "high"))
                return spaces.Box(low, high, shape, dtype.type)
            case "Discrete":
                return spaces.Discrete(_at_most(description["n"]))
            case "MultiDiscrete":
                return spaces.MultiDiscrete([_at_most(n) for n in description["nvec"]])
            case "MultiBinary":
                n = description["n"]
                return spaces.MultiBinary([_at_most(size) for size in n] if isinstance(n, list) else _at_most(n))
            case "Dict":
                parts = description["spaces"].items()
                return spaces.Dict({str(key): space_from_json(part) for key, part in parts})
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError) as error:
        raise InputError(f"space = {str(description)[:200]}: not a description of a space: {error}") from error
    raise InputError(f"space = {str(description)[:200]}: unknown type of space")


def _bound_to_json(bound: np.ndarray) -> Any:
    # JSON has no infinity, and an image has one bound for all its elements.
    texts = np.vectorize(str, otypes=[object])(bound)
    first = texts.flat[0] if bound.size else "0"
    return first if (texts == first).all() else texts.ravel().tolist()


def _bound_from_json(text: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if isinstance(text, str):
        return np.full(shape, np.dtype(dtype).type(text))
    return np.array([dtype.type(part) for part in text], dtype=dtype).reshape(shape)


def _at_most(number: Any) -> int:
    if not 1 <= int(number) <= MAX_ELEMENTS:
        raise ValueError(f"size {number}")
    return int(number)
