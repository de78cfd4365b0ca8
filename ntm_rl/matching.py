"""Sizes at which different memory cores have about as many parameters."""

from typing import Any

import torch

from ntm_rl.core import make_core


def matched_options(core: str, input_size: int, parameters: int) -> dict[str, Any]:
    """Returns options with which a core has about so many parameters: its `hidden_size`, all else as by default.

    Raises:
        InputError: unknown core.
    """
    low, high = 1, 2
    while _count(core, input_size, high) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _count(core, input_size, middle) < parameters else (low, middle)
    nearest = min(low, high, key=lambda size: abs(_count(core, input_size, size) - parameters))
    return {"hidden_size": nearest}


def _count(core: str, input_size: int, hidden_size: int) -> int:
    with torch.device("meta"):  # sizes alone
        return sum(each.numel() for each in make_core(core, input_size, hidden_size=hidden_size).parameters())
