"""Nested mappings of arrays and JSON values as tensors and JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntm_rl.envs.state import State
from ntm_rl.errors import InputError

ARRAY = "array"  # {"array": name} stands for a tensor of that name


def pack(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], State]:
    """Splits nested mappings into tensors and JSON."""
    tensors: dict[str, Tensor] = {}

    def walk(part: Any, name: str) -> Any:
        if isinstance(part, np.ndarray):
            tensors[name] = torch.from_numpy(np.ascontiguousarray(part)).reshape(part.shape)
            return {ARRAY: name}
        if isinstance(part, Mapping):
            return {key: walk(each, f"{name}/{key}" if name else key) for key, each in part.items()}
        return part

    return tensors, walk(state, "")


def unpack(tensors: Mapping[str, Tensor], document: Any) -> State:
    """Joins the results of `pack`.

    Raises:
        InputError: an array that is missing or not used.
    """
    left = dict(tensors)

    def walk(part: Any) -> Any:
        if isinstance(part, Mapping):
            if part.keys() == {ARRAY}:
                if part[ARRAY] not in left:
                    raise InputError(f"environment: array {part[ARRAY]!r} is missing")
                return left.pop(part[ARRAY]).numpy()
            return {key: walk(each) for key, each in part.items()}
        return part

    if not isinstance(document, Mapping):
        raise InputError("environment: must be a mapping")
    state: State = walk(document)
    if left:
        raise InputError(f"environment: array {next(iter(left))!r} is not used")
    return state
