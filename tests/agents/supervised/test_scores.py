"""The score of a network on a task, in bits."""

import math

import numpy as np
import pytest
import torch

from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.supervised.scores import score
from ntm_rl.envs.algorithmic.registry import make_task


def test_the_cost_is_the_cross_entropy_in_bits_of_the_masked_steps():
    task, network = make_task("copy", bits=3, max_length=4), SequenceNetwork("lstm", 4, 3, hidden_size=5)
    batch = task.sample(6, np.random.default_rng(0))
    result = score(network, batch, task)
    logits = network(torch.from_numpy(batch.inputs)).detach().numpy()
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    total, wrong, asked = 0.0, 0, 0
    for step, sequence, bit in np.ndindex(*batch.targets.shape):
        if batch.mask[step, sequence]:
            target = batch.targets[step, sequence, bit]
            total -= math.log2(probability[step, sequence, bit] if target else 1 - probability[step, sequence, bit])
            wrong += (probability[step, sequence, bit] > 0.5) != bool(target)
            asked += 1
    assert result.bits == pytest.approx(total / 6, rel=1e-5)
    assert result.wrong == pytest.approx(wrong / asked)
    assert result.floor == 0
