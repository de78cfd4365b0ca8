"""What cores ask about devices and autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ntm_rl.transforms import is_transformed


def host_sees(device: torch.device) -> bool:
    """Whether looking at values costs nothing; elsewhere it waits for the device, on meta or traced there are none."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed()


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is on; torch itself raises for meta, which has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context without autocast; where there is none it is free, which a rollout's step notices (10 µs)."""
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()
