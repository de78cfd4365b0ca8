"""The equations of the Neural Turing Machine's memory as pure functions.

Read beside section 3 of Graves, Wayne and Danihelka (2014), "Neural Turing Machines", arXiv:1410.5401.
Letters: B batch, N memory slots, M slot width, K heads, S = 2k + 1 allowed shifts.
"""

import torch
from torch import Tensor

# Added inside the square root of a norm: bounds the gradient of the similarity at an empty slot to 1.7e3 (the usual
# epsilon on the product of norms: 6.7e5).
NORM_EPSILON = 1e-6
# Added to a weighting before its logarithm, so that a weight of 0 has a finite logarithm and a gradient.
LOG_EPSILON = 1e-8


def content_weighting(memory: Tensor, keys: Tensor, strengths: Tensor) -> Tensor:
    """Returns weightings over slots similar to the key (equations 5 and 6).

    Args:
        memory: `[B, N, M]`.
        keys: `[B, K, M]`.
        strengths: key strengths beta, `[B, K]`, positive.

    Returns:
        Weightings `[B, K, N]`.
    """
    return torch.softmax(strengths.unsqueeze(-1) * cosine_similarity(memory, keys), dim=-1)


def cosine_similarity(memory: Tensor, keys: Tensor) -> Tensor:
    """Returns the cosine `[B, K, N]` between each key `[B, K, M]` and each slot of `memory` `[B, N, M]`.

    An all-zero key or slot has similarity 0.
    """
    slot_norms = torch.sqrt((memory * memory).sum(-1) + NORM_EPSILON)  # [B, N]
    key_norms = torch.sqrt((keys * keys).sum(-1) + NORM_EPSILON)  # [B, K]
    products = torch.bmm(keys, memory.transpose(1, 2))  # [B, K, N]
    return products / (key_norms.unsqueeze(-1) * slot_norms.unsqueeze(1))


def interpolate(content: Tensor, previous: Tensor, gates: Tensor) -> Tensor:
    """Blends the content weighting with the previous weighting, both `[B, K, N]`, by gates `[B, K]` (equation 7)."""
    return torch.lerp(previous, content, gates.unsqueeze(-1))


def shift(weightings: Tensor, shift_weightings: Tensor) -> Tensor:
    """Rotates each weighting by a distribution over shifts: circular convolution (equation 8).

    Args:
        weightings: `[B, K, N]`.
        shift_weightings: `[B, K, S]`; element i is the weight of shifting by `i - S // 2` slots.

    Returns:
        Shifted weightings `[B, K, N]`.
    """
    reach = shift_weightings.shape[-1] // 2
    shifted = torch.zeros_like(weightings)
    for index, offset in enumerate(range(-reach, reach + 1)):
        shifted = shifted + shift_weightings[..., index : index + 1] * weightings.roll(offset, dims=-1)
    return shifted


def sharpen(weightings: Tensor, exponents: Tensor) -> Tensor:
    """Raises weightings `[B, K, N]` to exponents gamma `[B, K]` and renormalises (equation 9).

    In log space: `w ** gamma / sum` underflows to an all-zero head where `softmax(gamma * log w)` does not.
    """
    return torch.softmax(exponents.unsqueeze(-1) * torch.log(weightings + LOG_EPSILON), dim=-1)


def entropy(weightings: Tensor) -> Tensor:
    """Returns the entropy of weightings `[..., N]` in bits, `[...]`: 0 on one slot, log2 N over all."""
    return -(weightings * torch.log2(weightings + LOG_EPSILON)).sum(dim=-1)


def read(memory: Tensor, weightings: Tensor) -> Tensor:
    """Returns read vectors `[B, K, M]`, convex combinations of the slots of `memory` `[B, N, M]` (equation 2)."""
    return torch.bmm(weightings, memory)


def write(memory: Tensor, weightings: Tensor, erases: Tensor, adds: Tensor) -> Tensor:
    """Erases, then adds (equations 3 and 4); all heads erase before any adds, so their order does not matter.

    Args:
        memory: `[B, N, M]`.
        weightings: write weightings `[B, K, N]`.
        erases: erase vectors in [0, 1], `[B, K, M]`.
        adds: add vectors, `[B, K, M]`.

    Returns:
        The memory after the write, `[B, N, M]`.
    """
    heads = weightings.shape[1]
    keep = 1 - weightings[:, 0].unsqueeze(-1) * erases[:, 0].unsqueeze(1)  # [B, N, M]
    for head in range(1, heads):
        keep = keep * (1 - weightings[:, head].unsqueeze(-1) * erases[:, head].unsqueeze(1))
    return torch.baddbmm(memory * keep, weightings.transpose(1, 2), adds)
