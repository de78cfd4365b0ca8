"""The equations of the Differentiable Neural Computer's memory as pure functions.

Read beside the methods of Graves et al. (2016), "Hybrid computing using a neural network with dynamic external memory",
Nature 538, and section 3 of Csordás and Schmidhuber (2019), "Improving Differentiable Neural Computers Through Memory
Masking, De-allocation, and Link Distribution Sharpness Control", arXiv:1904.10278.
Letters: B batch, N memory slots, M slot width, R read heads. The NTM's equations are in `addressing/ntm.py`.
"""

import torch
from torch import Tensor

from ntm_rl.addressing.ntm import NORM_EPSILON

# Lower bound of usage in the allocation, which has a logarithm.
USAGE_EPSILON = 1e-6
# Added to usage per slot in the free list, so that slots whose usage differs only by rounding have the same order on
# every device and in every batch.
TIE = 1e-6


def retention(free_gates: Tensor, read_weightings: Tensor) -> Tensor:
    """Returns psi, the share of each slot that is not freed.

    Args:
        free_gates: f, `[B, R]` in (0, 1).
        read_weightings: of the last step, `[B, R, N]`.

    Returns:
        `[B, N]` in [0, 1].
    """
    first, *others = (1 - free_gates.unsqueeze(-1) * read_weightings).unbind(1)
    for kept in others:  # torch's prod needs a host-device synchronisation
        first = first * kept
    return first


def usage(last: Tensor, write_weighting: Tensor, kept: Tensor) -> Tensor:
    """Returns the usage u of each slot, `[B, N]`.

    Args:
        last: usage of the last step, `[B, N]`.
        write_weighting: of the last step, `[B, N]`.
        kept: `retention` of this step, `[B, N]`.
    """
    return torch.addcmul(last, write_weighting, 1 - last) * kept


def free_list(usage: Tensor) -> Tensor:
    """Returns the slots `[B, N]` in ascending order of usage; of nearly tied slots the first comes first."""
    order = usage.detach() + TIE * torch.arange(usage.shape[-1], dtype=usage.dtype, device=usage.device)
    return order.argsort(dim=-1, stable=True)


def allocation(usage: Tensor) -> Tensor:
    """Returns the allocation weighting a, `[B, N]`, over the least used slots.

    Along the free list each slot takes its unused share of the remaining weight. The order has no gradient. The product
    of usages is a sum of logarithms, as the gradient of torch's `cumprod` needs a host-device synchronisation.
    """
    order = free_list(usage)
    used = (USAGE_EPSILON + (1 - USAGE_EPSILON) * usage).gather(-1, order)
    logs = used.log()
    along = (1 - used) * torch.exp(logs.cumsum(-1) - logs)
    return along.scatter(-1, order, along)


def write_weighting(content: Tensor, allocation: Tensor, allocation_gate: Tensor, write_gate: Tensor) -> Tensor:
    """Returns w^w `[B, N]`, from two weightings `[B, N]` and two gates `[B, 1]`."""
    return write_gate * torch.lerp(content, allocation, allocation_gate)


def write(memory: Tensor, weighting: Tensor, erase: Tensor, add: Tensor, kept: Tensor | None = None) -> Tensor:
    """Returns the memory `[B, N, M]` after a write.

    Args:
        memory: `[B, N, M]`.
        weighting: w^w, `[B, N]`.
        erase: `[B, M]` in (0, 1).
        add: v, `[B, M]`.
        kept: `retention` `[B, N]`, to wipe freed slots (Csordás and Schmidhuber, section 3.2).
    """
    column = weighting.unsqueeze(2)
    left = torch.addcmul(memory, memory, column * erase.unsqueeze(1), value=-1)
    if kept is not None:
        left = left * kept.unsqueeze(2)
    return torch.baddbmm(left, column, add.unsqueeze(1))


def precedence(last: Tensor, write_weighting: Tensor) -> Tensor:
    """Returns p `[B, N]`: the degree to which each slot was written last; `last` and the weighting are `[B, N]`."""
    return torch.addcmul(write_weighting, 1 - write_weighting.sum(-1, keepdim=True), last)


def links(last: Tensor, precedence: Tensor, write_weighting: Tensor) -> Tensor:
    """Returns L `[B, N, N]`: `L[i, j]` is the degree to which slot i was written right after slot j.

    Args:
        last: links of the last step, `[B, N, N]`, zero on the diagonal.
        precedence: of the last step, `[B, N]`.
        write_weighting: of this step, `[B, N]`.
    """
    slots = last.shape[-1]
    to, source = write_weighting.unsqueeze(2), write_weighting.unsqueeze(1)
    kept = (1 - to - source).clamp_min(0)  # rounding may leave a link below 0, without a logarithm
    added = torch.baddbmm(last * kept, to, precedence.unsqueeze(1))
    itself = torch.eye(slots, dtype=torch.bool, device=last.device)
    return added.masked_fill(itself, 0)


def forward_weightings(links: Tensor, read_weightings: Tensor) -> Tensor:
    """Returns f, the weightings `[B, R, N]` over slots written after those read last."""
    return torch.bmm(read_weightings, links.transpose(1, 2))


def backward_weightings(links: Tensor, read_weightings: Tensor) -> Tensor:
    """Returns b, the weightings `[B, R, N]` over slots written before those read last."""
    return torch.bmm(read_weightings, links)


def read_weightings(backward: Tensor, content: Tensor, forward: Tensor, modes: Tensor) -> Tensor:
    """Mixes three weightings `[B, R, N]` by the read modes pi `[B, R, 3]`, in this order."""
    first, second, third = modes.unsqueeze(2).unbind(-1)  # [B, R, 1] each
    return torch.addcmul(torch.addcmul(first * backward, second, content), third, forward)


def masked_content_weighting(memory: Tensor, keys: Tensor, strengths: Tensor, masks: Tensor) -> Tensor:
    """Returns content weightings of which each head compares only a part of the slots' width.

    The softmax of strength times the cosine between the masked key and each masked slot (Csordás and Schmidhuber,
    section 3.1).

    Args:
        memory: `[B, N, M]`.
        keys: `[B, K, M]`.
        strengths: beta, `[B, K]`.
        masks: `[B, K, M]` in (0, 1).

    Returns:
        Weightings `[B, K, N]`.
    """
    squares = masks * masks
    masked = keys * squares
    key_norms = torch.sqrt((keys * masked).sum(-1, keepdim=True) + NORM_EPSILON)  # [B, K, 1]
    slot_norms = torch.sqrt(torch.bmm(squares, (memory * memory).transpose(1, 2)) + NORM_EPSILON)  # [B, K, N]
    products = torch.bmm(masked, memory.transpose(1, 2))
    return torch.softmax(strengths.unsqueeze(-1) * products / (key_norms * slot_norms), dim=-1)
