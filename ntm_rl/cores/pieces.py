"""Cuts sequences at their resets into pieces that run in parallel."""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

# Steps of one sequence that cost as much as a call of a torch module (measured forward and backward).
STEPS_PER_CALL = 100


class _Band(NamedTuple):
    """Consecutive rows of the block of pieces; row i has step i of each piece.

    Attributes:
        source: index in the flattened `[T * B]` sequences, `[rows, width]`.
        is_over: whether a piece has ended, `[rows, width, 1]`.
        width: pieces that have not ended before these rows.
        ending: sequences whose last piece ends with the last row.
    """

    source: Tensor
    is_over: Tensor
    width: int
    ending: Tensor


class Pieces:
    """The pieces of `[T, B]` sequences, which start at t = 0 or at a reset, in descending order of length.

    Attributes:
        lengths: steps of each piece.
        first_of_sequence: for each of the B sequences the piece that starts at t = 0.
        last_of_sequence: for each of the B sequences the piece that ends at t = T - 1.
        bands: rows that run in one call. A new band starts where skipping the ended pieces saves more than a call
            costs, and if `at_ends` after each end of a sequence, where its state is read.
        position: for each of the `[T * B]` steps the index in the concatenated outputs of all bands.
        order_of_ends: for each of the B sequences its index among the bands' `ending`.
    """

    def __init__(self, resets: Tensor, at_ends: bool):
        steps, batch = resets.shape
        starts = resets.clone()
        starts[0] = True
        sequence, start = starts.t().nonzero(as_tuple=True)  # sequence by sequence, in time order
        end = torch.full_like(start, steps)
        end[:-1] = torch.where(sequence[1:] == sequence[:-1], start[1:], steps)
        self.lengths, by_length = (end - start).sort(descending=True)
        rank = by_length.argsort()
        per_sequence = starts.sum(0)
        last = per_sequence.cumsum(0) - 1
        first = last - per_sequence + 1
        self.first_of_sequence, self.last_of_sequence = rank[first], rank[last]

        sequence_ends = self.lengths[self.last_of_sequence]
        time = torch.arange(steps, device=resets.device)
        active = (self.lengths > time.unsqueeze(1)).sum(1).tolist()  # pieces that have not ended, by row
        rows = _band_rows(active, set(sequence_ends.tolist()) if at_ends else set())
        source = (start[by_length] + time.unsqueeze(1)).clamp(max=steps - 1) * batch + sequence[by_length]
        is_over = (self.lengths <= time.unsqueeze(1)).unsqueeze(2)
        self.bands = [
            _Band(
                source[top:bottom, : active[top]],
                is_over[top:bottom, : active[top]],
                active[top],
                (sequence_ends == bottom).nonzero().flatten(),
            )
            for top, bottom in rows
        ]
        if at_ends:
            self.order_of_ends = torch.cat([band.ending for band in self.bands]).argsort()
        offsets = [0, *itertools.accumulate(active[top] for top, bottom in rows for _ in range(top, bottom))]
        piece = first + starts.cumsum(0) - 1  # [T, B]
        row = time.unsqueeze(1) - start[piece]
        self.position = (torch.tensor(offsets, device=resets.device)[row] + rank[piece]).flatten()


def _band_rows(active: list[int], ends: set[int]) -> list[tuple[int, int]]:
    """Cuts the rows with active pieces into bands `[top, bottom)`: at `ends`, and where that saves enough steps."""
    longest = sum(count > 0 for count in active)
    return [
        band
        for top, bottom in itertools.pairwise(sorted({0, longest, *(row for row in ends if row < longest)}))
        for band in _cut(active, top, bottom)
    ]


def _cut(active: list[int], top: int, bottom: int) -> list[tuple[int, int]]:
    saved = [(active[top] - active[row]) * (bottom - row) for row in range(top, bottom)]
    most = max(saved)
    if most <= STEPS_PER_CALL:
        return [(top, bottom)]
    row = top + saved.index(most)
    return [*_cut(active, top, row), *_cut(active, row, bottom)]
