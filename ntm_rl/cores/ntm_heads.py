"""The parameters of an NTM's heads and their initialisation."""

from itertools import cycle
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Init = Literal["plain", "content", "tape"]

TAPE_SHARP = 2.0
TAPE_WEIGHT_SCALE = 0.1
TAPE_DIRECTIONS = (1, -1, 0)  # of the first, second, third ... read or write head, so that heads differ

# Sharp content addressing without shifts, and writes that keep most of the contents by which slots are found.
CONTENT_STRENGTH, CONTENT_LOOK_UP, CONTENT_STAY, CONTENT_KEEP = 6.0, 2.0, 2.0, -3.0
CONTENT_SPREAD = 10.0  # factor on the spread of the initial memory's contents, so that writes do not mask them


class HeadParameters(NamedTuple):
    """Head parameters of one step, each within its valid range (section 3.3).

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
    """Initialises the layer of head parameters; plain leaves it unchanged.

    content: heads address sharply by content (large key strength, open gates, no shift), and writes erase little.
    tape: heads address by location and move by one slot per step: the first of each type forward, the second backward,
    the third not at all, and so on; write heads are sharp, read heads are not.

    Args:
        init: Type of initialisation.
        weight: Rows of the layer's weight for each group of head parameters.
        bias: The layer's bias for each group; read heads come before write heads.
        read_heads: Number of read heads.
        tape_logit: Logit of a tape's shift by one slot; its negative is that of the interpolation gate.
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
        # Sharpening compensates for the content weighting's share through the gate, so it has the gate's logit.
        bias.exponents[:read_heads] = -tape_logit
        bias.exponents[read_heads:] = TAPE_SHARP
