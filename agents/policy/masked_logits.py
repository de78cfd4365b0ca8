"""Masks the logits of discrete action distributions."""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

MASKED = -1e8  # a logit whose probability is 0; as in sb3-contrib, finite, so that entropies have no NaN
LOWEST = MASKED / 2  # of allowed actions, so that even divergent logits are above those of excluded ones


def mask_logits(logits: Tensor, masks: Tensor, space: spaces.Space[Any]) -> Tensor:
    """Returns logits in which excluded actions have probability 0 and no gradient.

    Args:
        logits: `[B, A]`: one for each value, for MultiBinary one for each bit.
        masks: `[B, sum of choices]` bool, True for an allowed value; for MultiBinary two for each bit, 0 and 1.
        space: Discrete, MultiDiscrete or MultiBinary.
    """
    if not isinstance(space, spaces.MultiBinary):
        return torch.where(masks, logits.clamp(min=LOWEST), MASKED)
    allows_0, allows_1 = masks.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.where(allows_1, torch.where(allows_0, logits, -MASKED), MASKED)
