"""A step of a GRU controller that reads vectors, and its weights as the kernels need them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GruWeights(NamedTuple):
    """Weights of a GRU of H units with PyTorch's gates r, z, n.

    Attributes:
        weight_input: `[3 * H, I]`.
        bias: `[3 * H]`.
        weight_read: Of the read vectors, `[3 * H, R * M]`.
        weight_hidden: Of the hidden state, `[3 * H, H]`.
        bias_candidate: Of the hidden state's share in the candidate, `[H]`.
    """

    weight_input: Tensor
    bias: Tensor
    weight_read: Tensor
    weight_hidden: Tensor
    bias_candidate: Tensor


def gru_step(
    from_input: Tensor,
    reads: Tensor,
    hidden: Tensor,
    weight_read: Tensor,
    weight_hidden: Tensor,
    bias_candidate: Tensor,
) -> Tensor:
    """Returns the next hidden state `[B, H]`; the reset gate applies to the hidden state's share in the candidate.

    Args:
        from_input: Share of the inputs in the gates, with the bias, `[B, 3 * H]`.
        reads: Read vectors `[B, R * M]`.
        hidden: `[B, H]`.
        weight_read: See `GruWeights`.
        weight_hidden: See `GruWeights`.
        bias_candidate: See `GruWeights`.
    """
    size = hidden.shape[1]
    gates = torch.addmm(from_input, reads, weight_read.t())
    from_hidden = F.linear(hidden, weight_hidden)
    reset_gate, update_gate = torch.sigmoid(gates[:, :-size] + from_hidden[:, :-size]).chunk(2, 1)
    candidate = torch.tanh(gates[:, -size:] + reset_gate * (from_hidden[:, -size:] + bias_candidate))
    return torch.lerp(candidate, hidden, update_gate)


def four_blocks(weights: GruWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the kernel's weight of inputs `[4 * H, I]`, bias `[4 * H]` and weight of the feedback `[4 * H, F]`.

    The hidden state's share in the candidate is a block of its own.
    """
    size = len(weights.bias_candidate)
    inputs, reads = (F.pad(weight, (0, 0, 0, size)) for weight in (weights.weight_input, weights.weight_read))
    gates, candidate = weights.weight_hidden.split([2 * size, size])
    hidden = torch.cat([gates, torch.zeros_like(candidate), candidate])
    return inputs, torch.cat([weights.bias, weights.bias_candidate]), torch.cat([reads, hidden], dim=1)


def three_blocks(inputs: Tensor, bias: Tensor, feedback: Tensor) -> GruWeights:
    """The inverse of `four_blocks`."""
    size = len(bias) // 4
    reads, hidden = feedback.split([feedback.shape[1] - size, size], dim=1)
    return GruWeights(
        inputs[: 3 * size],
        bias[: 3 * size],
        reads[: 3 * size],
        torch.cat([hidden[: 2 * size], hidden[3 * size :]]),
        bias[3 * size :],
    )
