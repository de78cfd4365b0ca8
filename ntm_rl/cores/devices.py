"""Checks of devices and autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ntm_rl.transforms import is_transformed


def can_read_values(device: torch.device) -> bool:
    """Whether the host can read values without a host-device synchronisation; on meta or traced there are none."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context without autocast; where autocast is off it costs nothing (else 10 µs a step)."""
    # torch raises for meta, which has no autocast.
    is_on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if is_on else nullcontext()
