"""The parameters of an NTM's heads, and the initialisation of heads and memory."""

import math
from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ntm_rl.addressing import ntm as addressing
from ntm_rl.cores.access import Head, MemoryAccess

Init = Literal["plain", "content", "tape", "mixed"]

TAPES = ("tape", "mixed")  # initialisations with heads that move
MIXED_TAPES = 2  # read heads of a mixed NTM that move, forward and backward; the others address by content
MIXED_STRENGTH = 3.0

TAPE_SHARP = 2.0
TAPE_WEIGHT_SCALE = 0.1
TAPE_DIRECTIONS = (1, -1, 0)  # of the first, second, third ... read or write head, so that heads differ

# Sharp content addressing without shifts, and writes that keep most of the contents by which slots are found.
CONTENT_STRENGTH, CONTENT_LOOK_UP, CONTENT_STAY, CONTENT_KEEP = 6.0, 2.0, 2.0, -3.0
CONTENT_SPREAD = 10.0  # factor on the spread of the initial memory's contents, so that writes do not mask them

SLOWEST_WAVE, FASTEST_WAVE = 4, 16  # wavelengths of a positional memory: in multiples of N, and in slots


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


def access_by(parameters: HeadParameters, weightings: Mapping[str, Tensor]) -> MemoryAccess:
    """Returns the access of heads with their parameters and weightings `[B, N]` by name, the read heads first."""
    reads = len(weightings) - parameters.adds.shape[1]
    heads = {}
    for index, (name, weighting) in enumerate(weightings.items()):
        named = {
            "key strength": parameters.strengths[:, index],
            "gate": parameters.gates[:, index],
            "shift": parameters.shifts[:, index],
            "sharpness": parameters.exponents[:, index],
        }
        if index >= reads:
            named["erase"] = parameters.erases[:, index - reads]
        heads[name] = Head(weighting, named, parameters.adds[:, index - reads] if index >= reads else None)
    written = torch.stack([*weightings.values()][reads:], dim=1)
    ones = written.new_ones(len(written), written.shape[2], parameters.adds.shape[2])
    return MemoryAccess(heads, addressing.write(ones, written, parameters.erases, torch.zeros_like(parameters.adds)))


@torch.no_grad()
def bias_heads(init: Init, weight: HeadParameters, bias: HeadParameters, read_heads: int, tape_logit: float) -> None:
    """Initialises the layer of head parameters; plain leaves it unchanged.

    content: heads address sharply by content (large key strength, open gates, no shift), and writes erase little.
    tape: heads address by location and move by one slot per step: the first of each type forward, the second backward,
    the third not at all, and so on; write heads are sharp, read heads are not.
    mixed: as tape, but from the third read head on, read heads address by content.

    Args:
        init: Type of initialisation.
        weight: Rows of the layer's weight for each group of head parameters.
        bias: The layer's bias for each group; read heads come before write heads.
        read_heads: Number of read heads.
        tape_logit: Logit of a tape's shift by one slot; its negative is that of the interpolation gate.
    """
    heads = len(bias.gates)
    if init == "content":
        _address_by_content(bias, range(heads), CONTENT_STRENGTH)
        bias.erases.fill_(CONTENT_KEEP)
    elif init in TAPES:
        readers, writers = range(read_heads), range(read_heads, heads)
        if init == "mixed":
            _address_by_content(bias, readers[MIXED_TAPES:], MIXED_STRENGTH)
            readers = readers[:MIXED_TAPES]
        _move(weight, bias, readers, tape_logit, -tape_logit)
        _move(weight, bias, writers, tape_logit, TAPE_SHARP)


def _address_by_content(bias: HeadParameters, heads: Iterable[int], strength: float) -> None:
    shifts = bias.shifts.view(len(bias.gates), -1)
    for head in heads:
        bias.strengths[head] = strength
        bias.gates[head] = CONTENT_LOOK_UP
        shifts[head, shifts.shape[1] // 2] = CONTENT_STAY


def _move(
    weight: HeadParameters, bias: HeadParameters, heads: Iterable[int], tape_logit: float, exponent: float
) -> None:
    """Makes heads move as on a tape, with the raw sharpening exponent given.

    Reading, sharpening compensates for the content weighting's share through the gate, so it has the gate's logit.
    """
    count = len(bias.gates)
    shifts, shift_weights = bias.shifts.view(count, -1), weight.shifts.view(count, -1, weight.shifts.shape[-1])
    for head, direction in zip(heads, cycle(TAPE_DIRECTIONS), strict=False):
        for rows in (weight.gates[head], shift_weights[head], weight.exponents[head]):
            rows.mul_(TAPE_WEIGHT_SCALE)
        bias.gates[head] = -tape_logit
        shifts[head] = 0
        shifts[head, shifts.shape[1] // 2 + direction] = tape_logit
        bias.exponents[head] = exponent


def waves(slots: int, width: int) -> Tensor:
    """Returns contents `[N, M]` of mean square 1: columns are cosines over the slots, from slow to fast.

    Their phases are random. A key then refers to a position, and a similar key to a nearby one.
    """
    ends = math.log(1 / SLOWEST_WAVE), math.log(max(slots / FASTEST_WAVE, 1 / SLOWEST_WAVE))
    waves = torch.exp(torch.linspace(*ends, width))  # periods in the memory
    turns = torch.linspace(0, 1, slots + 1)[:-1, None] * waves + torch.rand(width)
    return math.sqrt(2) * torch.cos(2 * math.pi * turns)
