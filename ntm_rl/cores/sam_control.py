"""What a sparse access memory's controller does and says in a step, and the derivatives of both."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Plan(NamedTuple):
    """What of a sequence is no tensor to differentiate.

    Attributes:
        resets: `[T, B]` bool or None.
        begins: for each step whether `resets` must be applied.
        interface_sizes: of queries, adds, strengths and gates.
        clip: range of the controller's output to the memory.
    """

    resets: Tensor | None
    begins: list[bool]
    interface_sizes: tuple[int, ...]
    clip: float


class Said(NamedTuple):
    """What the controller says: queries and adds `[..., R, M]`, beta, alpha and gamma `[..., R]`."""

    queries: Tensor
    adds: Tensor
    strengths: Tensor
    write_gates: Tensor
    interpolation_gates: Tensor


class Control(NamedTuple):
    """The controller's step: `[B, H + R * M]`, `[B, 3 H]` and, each, `[B, H]`."""

    feedback: Tensor
    gates: Tensor
    candidate: Tensor
    last_cell: Tensor
    squashed_cell: Tensor
    hidden: Tensor


def interpret(raw: Tensor, plan: Plan, width: int) -> Said:
    """Reads the interface layer's output `[..., P]`."""
    queries, adds, strengths, gates = raw.clamp(-plan.clip, plan.clip).split(plan.interface_sizes, dim=-1)
    write_gates, interpolation_gates = torch.sigmoid(gates).chunk(2, dim=-1)
    queries, adds = (part.unflatten(-1, (-1, width)) for part in (queries, adds))
    return Said(queries, adds, 1 + F.softplus(strengths), write_gates, interpolation_gates)


def slopes_of(raw: Tensor, said: Said, plan: Plan) -> Tensor:
    """Returns the derivatives of what `interpret` says of `raw` `[..., P]`."""
    plain = torch.ones_like(raw[..., : 2 * plan.interface_sizes[0]])
    strengths = 1 - torch.exp(1 - said.strengths)  # of a softplus, from its value
    gates = torch.cat([said.write_gates, said.interpolation_gates], dim=-1)
    slopes = torch.cat([plain, strengths, gates * (1 - gates)], dim=-1)
    return slopes * (raw.abs() <= plan.clip)


def run_control(gates: Tensor, feedback: Tensor, last_cell: Tensor) -> tuple[Control, Tensor]:
    """The LSTM's step from its gates `[B, 4 H]` before their nonlinearity, see `LstmController`; and its cell."""
    size = last_cell.shape[1]
    opened, candidate = torch.sigmoid(gates[:, : 3 * size]), torch.tanh(gates[:, 3 * size :])
    input_gate, forget_gate, output_gate = opened.chunk(3, dim=1)
    cell = torch.addcmul(forget_gate * last_cell, input_gate, candidate)
    squashed = torch.tanh(cell)
    return Control(feedback, opened, candidate, last_cell, squashed, output_gate * squashed), cell


def control_backward(control: Control, d_hidden: Tensor, d_cell: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of the gates `[B, 4 H]` and of the last cell."""
    input_gate, forget_gate, output_gate = control.gates.chunk(3, dim=1)
    candidate, squashed = control.candidate, control.squashed_cell
    d_cell = torch.addcmul(d_cell, d_hidden * output_gate, 1 - squashed.square())
    d_opened = torch.cat([d_cell * candidate, d_cell * control.last_cell, d_hidden * squashed], dim=1)
    d_opened = d_opened * (control.gates * (1 - control.gates))
    d_candidate = d_cell * input_gate * (1 - candidate.square())
    return torch.cat([d_opened, d_candidate], dim=1), d_cell * forget_gate
