"""Checks of devices and autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ntm_rl.transforms import is_transformed


def can_read_values(device: torch.device) -> bool:
    """Whether values can be read without a host-device synchronisation; meta and traced tensors have none."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context without autocast, which costs nothing where autocast is off (10 µs per step where it is on)."""
    # torch raises for meta, which has no autocast.
    is_on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if is_on else nullcontext()
