"""The addressing of MANN: Santoro et al. (2016), section 3."""

import torch
from torch import Tensor

from ntm_rl.addressing.dnc import free_list


def decayed_usage(last: Tensor, read_weightings: Tensor, write_weightings: Tensor, decay: float) -> Tensor:
    """Returns w^u `[B, N]` (equation 5) from the last usage and this step's weightings `[B, R, N]`."""
    return torch.add(torch.cat([read_weightings, write_weightings], dim=1).sum(1), last, alpha=decay)


def least_used_weightings(usage: Tensor, heads: int) -> Tensor:
    """Returns w^lu `[B, R, N]` (equation 6): head j has all its weight on the slot with the j-th lowest usage.

    In the paper every head marks all R least used slots, so that all heads would write to all of them.
    """
    slots = free_list(usage)[:, :heads].unsqueeze(-1)
    return usage.new_zeros(usage.shape[0], heads, usage.shape[1]).scatter(-1, slots, 1)


def write_weightings(read_weightings: Tensor, least_used: Tensor, gates: Tensor) -> Tensor:
    """Returns w^w `[B, R, N]` (equation 7) from w^r of the last step, w^lu, and gates sigma(alpha) `[B, R]`."""
    return torch.lerp(least_used, read_weightings, gates.unsqueeze(-1))


def write(memory: Tensor, least_used: Tensor, weightings: Tensor, keys: Tensor) -> Tensor:
    """Returns the memory `[B, N, M]` after the least used slots are wiped and the keys are added (equation 8).

    Args:
        memory: `[B, N, M]`.
        least_used: w^lu, `[B, R, N]`.
        weightings: w^w, `[B, R, N]`.
        keys: `[B, R, M]`.
    """
    kept = 1 - least_used.sum(1).unsqueeze(-1)  # [B, N, 1]
    return torch.baddbmm(memory * kept, weightings.transpose(1, 2), keys)
