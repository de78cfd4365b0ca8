"""Scores of a network on an algorithmic task in bits per sequence, the unit of the NTM paper."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Batch

NATS_PER_BIT = math.log(2)


@dataclass(frozen=True)
class Score:
    """The score of a network on a batch.

    Attributes:
        bits: Mean cost of a sequence in bits, the paper's unit.
        wrong: Fraction of wrong bits.
        floor: Mean cost in bits of optimal answers; 0 for a deterministic task.
    """

    bits: float
    wrong: float
    floor: float


def score(network: SequenceNetwork, batch: Batch, task: AlgorithmicTask) -> Score:
    """Scores a network on a batch."""
    with torch.no_grad():
        logits = network(tensor_on(network, batch.inputs)).cpu()
    costs = bits_of(logits, torch.from_numpy(batch.targets), torch.from_numpy(batch.mask))
    wrong = ((logits > 0).numpy() != (batch.targets > 0))[batch.mask]
    return Score(float(costs.mean()), float(wrong.mean()), float(task.floor(batch).mean()))


def label(difficulty: Mapping[str, int]) -> str:
    """Returns a difficulty as text, such as `length=10,repeats=20`."""
    return ",".join(f"{name}={value}" for name, value in difficulty.items())


def bits_of(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Returns the cost in bits of each sequence, `[B]`."""
    nats = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=2)
    return (nats * mask).sum(dim=0) / NATS_PER_BIT


def tensor_on(network: SequenceNetwork, array: np.ndarray) -> Tensor:
    """Returns an array as a tensor on a network's device."""
    return torch.from_numpy(array).to(network.output.weight.device)
