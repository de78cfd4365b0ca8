"""One step of an LSTM; `kernels/controllers.h` is its counterpart in C++.

Everywhere gates have PyTorch's order: input gate, forget gate, candidate, output gate.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class LstmStep(NamedTuple):
    """Activations of one step.

    Attributes:
        input_forget: Input gate and forget gate, `[B, 2 H]`.
        candidate: `[B, H]`.
        output_gate: `[B, H]`.
        squashed_cell: tanh of the cell state, `[B, H]`.
        hidden: `[B, H]`.
        cell: `[B, H]`.
    """

    input_forget: Tensor
    candidate: Tensor
    output_gate: Tensor
    squashed_cell: Tensor
    hidden: Tensor
    cell: Tensor


def lstm_step(gates: Tensor, last_cell: Tensor) -> LstmStep:
    """Runs one step.

    Args:
        gates: Sums of the gates before their nonlinearities, `[B, 4 H]`.
        last_cell: `[B, H]`.
    """
    size = gates.shape[1] // 4
    input_forget, candidate, output_gate = gates.split([2 * size, size, size], dim=1)
    input_forget, output_gate = torch.sigmoid(input_forget), torch.sigmoid(output_gate)
    candidate = torch.tanh(candidate)
    input_gate, forget_gate = input_forget.chunk(2, dim=1)
    cell = torch.addcmul(forget_gate * last_cell, input_gate, candidate)
    squashed_cell = torch.tanh(cell)
    return LstmStep(input_forget, candidate, output_gate, squashed_cell, output_gate * squashed_cell, cell)


def lstm_step_backward(step: LstmStep, last_cell: Tensor, d_hidden: Tensor, d_cell: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of the gates' sums `[B, 4 H]` and of the last cell `[B, H]`."""
    sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.default, torch.ops.aten.tanh_backward.default
    input_gate, forget_gate = step.input_forget.chunk(2, dim=1)
    d_cell = d_cell + tanh_backward(d_hidden * step.output_gate, step.squashed_cell)
    d_input_forget = torch.cat([d_cell * step.candidate, d_cell * last_cell], dim=1)
    d_gates = [
        sigmoid_backward(d_input_forget, step.input_forget),
        tanh_backward(d_cell * input_gate, step.candidate),
        sigmoid_backward(d_hidden * step.squashed_cell, step.output_gate),
    ]
    return torch.cat(d_gates, dim=1), d_cell * forget_gate
