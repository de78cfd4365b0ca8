"""The interface parameters of a sparse access memory and their derivatives."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class SequencePlan(NamedTuple):
    """Arguments of a sequence that are not differentiated.

    Attributes:
        resets: `[T, B]` bool or None.
        has_reset: for each step whether `resets` must be applied.
        interface_sizes: of queries, adds, strengths and gates.
        clip: range of the interface parameters.
    """

    resets: Tensor | None
    has_reset: list[bool]
    interface_sizes: tuple[int, ...]
    clip: float


class SamInterface(NamedTuple):
    """Interface parameters: queries and adds `[..., R, M]`, beta, alpha and gamma `[..., R]`."""

    queries: Tensor
    adds: Tensor
    strengths: Tensor
    write_gates: Tensor
    interpolation_gates: Tensor


def activate(raw: Tensor, plan: SequencePlan, width: int) -> SamInterface:
    """Returns the interface parameters from the interface layer's output `[..., P]`."""
    queries, adds, strengths, gates = raw.clamp(-plan.clip, plan.clip).split(plan.interface_sizes, dim=-1)
    write_gates, interpolation_gates = torch.sigmoid(gates).chunk(2, dim=-1)
    queries, adds = (part.unflatten(-1, (-1, width)) for part in (queries, adds))
    return SamInterface(queries, adds, 1 + F.softplus(strengths), write_gates, interpolation_gates)


def activation_slopes(raw: Tensor, interface: SamInterface, plan: SequencePlan) -> Tensor:
    """Returns the derivatives `[..., P]` of `activate` at `raw`."""
    plain = torch.ones_like(raw[..., : 2 * plan.interface_sizes[0]])
    strengths = 1 - torch.exp(1 - interface.strengths)  # of a softplus, from its value
    gates = torch.cat([interface.write_gates, interface.interpolation_gates], dim=-1)
    slopes = torch.cat([plain, strengths, gates * (1 - gates)], dim=-1)
    return slopes * (raw.abs() <= plan.clip)
