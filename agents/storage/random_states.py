"""States of the random generators of Python, NumPy and torch, for checkpoints."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

MERSENNE_TWISTER_WORDS = 624


def random_states(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns torch's states as tensors, of the CPU and of a CUDA device, and Python's and NumPy's as JSON."""
    tensors = {"torch": torch.get_rng_state()}
    if device.type == "cuda":  # on others, CUDA is not initialised, which takes memory
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return tensors, host_states()


def host_states() -> dict[str, Any]:
    """Returns the states of Python's and NumPy's generators as JSON values."""
    state: Any = np.random.get_state(legacy=False)
    inner = {"key": state["state"]["key"].tolist(), "pos": int(state["state"]["pos"])}
    return {"python": random.getstate(), "numpy": {**state, "state": inner}}


def check_random_states(tensors: Mapping[str, Tensor], document: Mapping[str, Any], device: torch.device) -> None:
    """Raises any error that `restore_random_states` would raise, by setting generators that are not used."""
    if not {"torch"} <= tensors.keys() <= {"torch", "cuda"}:
        raise ValueError(f"random states of {sorted(tensors)}")
    torch.Generator().set_state(tensors["torch"])
    if "cuda" in tensors and device.type == "cuda":
        torch.Generator(device).set_state(tensors["cuda"])
    check_host_states(document)


def restore_random_states(tensors: Mapping[str, Tensor], document: Mapping[str, Any], device: torch.device) -> None:
    """Restores the states returned by `random_states`, on another type of device those of the CPU."""
    restore_host_states(document)
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], device)


def check_host_states(document: Mapping[str, Any]) -> None:
    """Raises any error that `restore_host_states` would raise."""
    random.Random().setstate(_python_state(document["python"]))
    np.random.RandomState().set_state(_numpy_state(document["numpy"]))


def restore_host_states(document: Mapping[str, Any]) -> None:
    """Restores the states returned by `host_states`."""
    random.setstate(_python_state(document["python"]))
    np.random.set_state(_numpy_state(document["numpy"]))


def _python_state(saved: Any) -> tuple[Any, ...]:
    version, internal, gauss = saved
    return version, tuple(internal), None if gauss is None else float(gauss)


def _numpy_state(saved: Any) -> dict[str, Any]:
    position = saved["state"]["pos"]
    key = np.array(saved["state"]["key"], dtype=np.uint32)
    # NumPy does not check the position, and would read memory outside the key.
    if not isinstance(position, int) or not 0 <= position <= MERSENNE_TWISTER_WORDS:
        raise ValueError(f"position {position}")
    state = {"key": key, "pos": position}
    has_gauss, gauss = int(saved["has_gauss"]), float(saved["gauss"])
    return {"bit_generator": saved["bit_generator"], "state": state, "has_gauss": has_gauss, "gauss": gauss}
