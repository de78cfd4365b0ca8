"""What an NTM's controller says to its heads, and how that begins."""

from itertools import cycle
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Init = Literal["plain", "content", "tape"]

TAPE_SHARP = 2.0
TAPE_WEIGHT_SCALE = 0.1
TAPE_DIRECTIONS = (1, -1, 0)  # of the first, second and third read or write head, and so on: none is another's twin

# Slots are told apart at a glance, by contents alone, and a write leaves most of the contents by which they are found.
CONTENT_STRENGTH, CONTENT_LOOK_UP, CONTENT_STAY, CONTENT_KEEP = 6.0, 2.0, 2.0, -3.0
CONTENT_SPREAD = 10.0  # times the plain spread of the first memory's contents: what is written must not drown them


class HeadParameters(NamedTuple):
    """What the controller says to the heads in one step, each within its valid range (section 3.3).

    Attributes:
        keys: `[B, K, M]`.
        strengths: beta, `[B, K]`, positive.
        gates: g, `[B, K]` in (0, 1).
        shifts: s, `[B, K, S]` on the simplex.
        exponents: gamma, `[B, K]`, at least 1.
        erases: `[B, W, M]` in (0, 1).
        adds: `[B, W, M]`.
    """

    keys: Tensor
    strengths: Tensor
    gates: Tensor
    shifts: Tensor
    exponents: Tensor
    erases: Tensor
    adds: Tensor


@torch.no_grad()
def bias_heads(init: Init, weight: HeadParameters, bias: HeadParameters, read_heads: int, tape_logit: float) -> None:
    """Changes the layer that speaks to the heads as `init` says; plain leaves it as it is.

    content: heads look up by contents, decidedly (sharp key strength, open gates, no shift), and writes erase little.
    tape: heads keep to their location and step by one slot a step, the first of each kind on, the second back, the
    third not at all, and so forth; write heads are sharp, read heads as soft as they begin.

    Args:
        init: Which.
        weight: The rows of the layer's weight, by what they say.
        bias: The layer's bias likewise; read heads come before write heads.
        read_heads: How many of the heads read.
        tape_logit: Of a step in a tape's shift, against none; its negative is that of the interpolation gate.
    """
    heads = len(bias.gates)
    shifts = bias.shifts.view(heads, -1)
    still = shifts.shape[1] // 2
    if init == "content":
        bias.strengths.fill_(CONTENT_STRENGTH)
        bias.gates.fill_(CONTENT_LOOK_UP)
        shifts[:, still] = CONTENT_STAY
        bias.erases.fill_(CONTENT_KEEP)
    elif init == "tape":
        for rows in (weight.gates, weight.shifts, weight.exponents):
            rows.mul_(TAPE_WEIGHT_SCALE)
        bias.gates.fill_(-tape_logit)
        shifts.zero_()
        for kind in shifts.split([read_heads, heads - read_heads]):
            for head, direction in zip(kind, cycle(TAPE_DIRECTIONS), strict=False):
                head[still + direction] = tape_logit
        # As soft as it stays on location: sharpening makes up for the share of contents that an open gate lets in.
        bias.exponents[:read_heads] = -tape_logit
        bias.exponents[read_heads:] = TAPE_SHARP
