"""Sums of the ranks' gradients."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ntm_rl.agents.parallel.ranks import Ranks


def sum_gradients(ranks: Ranks, parameters: Iterable[nn.Parameter], values: Tensor) -> Tensor:
    """Sums the gradients of all ranks in place, and returns the sum of their values, such as losses.

    All ranks must have gradients of the same parameters.
    """
    if ranks.size == 1:
        return values
    gradients = [each.grad for each in parameters if each.grad is not None]
    total: Tensor = ranks.total(torch.cat([*(each.flatten() for each in gradients), values.flatten()]))
    parts: list[Tensor]
    summed: Tensor
    *parts, summed = total.split([*(each.numel() for each in gradients), values.numel()])
    torch._foreach_copy_(gradients, [part.view_as(each) for part, each in zip(parts, gradients, strict=True)])
    return summed.view_as(values)
