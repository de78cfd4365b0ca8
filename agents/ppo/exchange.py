"""Divides minibatches equally among the ranks: some sequences are learned from on another rank than they were played.

A random minibatch has unequal numbers of each rank's sequences, and every update waits for the rank with the most.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ntm_rl.agents.parallel.ranks import Ranks


def assign(owners: np.ndarray, size: int) -> np.ndarray:
    """Returns the rank that learns from each sequence of a minibatch.

    Ranks get equal numbers, up to one; they keep their own sequences as far as that allows.

    Args:
        owners: The rank that played each sequence, `[B]`.
        size: Number of ranks.
    """
    count = len(owners)
    learners = owners.copy()
    room: list[int] = []
    surplus: list[int] = []
    for rank in range(size):
        share = len(range(count)[Ranks(rank, size).rows(count)])
        own = np.flatnonzero(owners == rank)
        surplus += own[share:].tolist()
        room += [rank] * (share - len(own))
    learners[surplus] = room
    return learners


def exchange(ranks: Ranks, blocks: Sequence[Tensor], owners: np.ndarray, learners: np.ndarray) -> list[Tensor]:
    """Sends sequences to the ranks that learn from them.

    Args:
        ranks: The ranks.
        blocks: Arrays `[n, ...]` of this rank's sequences that others learn from, in the order of `owners`.
        owners: The rank that played each sequence, of all ranks.
        learners: The rank that learns from each of them.

    Returns:
        The blocks of other ranks' sequences that this one learns from, in the order of `owners`.
    """
    moves = owners != learners
    sent = np.flatnonzero(moves & (owners == ranks.rank))
    received = np.flatnonzero(moves & (learners == ranks.rank))
    by_rank = np.argsort(learners[sent], kind="stable")  # as all_to_all sends and receives them
    from_rank = np.argsort(owners[received], kind="stable")
    rows = torch.cat([_as_bytes(each) for each in blocks], dim=1)
    gathered = ranks.exchange(
        rows[torch.from_numpy(by_rank).to(rows.device)],
        np.bincount(learners[sent], minlength=ranks.size).tolist(),
        np.bincount(owners[received], minlength=ranks.size).tolist(),
    )
    gathered = gathered[torch.from_numpy(np.argsort(from_rank)).to(rows.device)]
    sizes = [math.prod(each.shape[1:]) * each.element_size() for each in blocks]
    return [_from_bytes(part, each) for part, each in zip(gathered.split(sizes, dim=1), blocks, strict=True)]


def _as_bytes(block: Tensor) -> Tensor:
    return block.reshape(len(block), math.prod(block.shape[1:])).contiguous().view(torch.uint8)


def _from_bytes(rows: Tensor, like: Tensor) -> Tensor:
    # A copy, as a part of a row may begin at any byte.
    return rows.clone(memory_format=torch.contiguous_format).view(like.dtype).view(len(rows), *like.shape[1:])
