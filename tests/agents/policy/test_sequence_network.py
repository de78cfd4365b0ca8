"""The entropy of a network's weightings."""

import numpy as np
import pytest
import torch

from ntm_rl.agents.policy.sequence_network import SequenceNetwork


@pytest.mark.parametrize("core", ["ntm", "dnc", "sam", "mann"])
def test_the_entropy_of_weightings_is_the_mean_after_the_given_steps_and_the_last(core):
    torch.manual_seed(0)
    network = SequenceNetwork(core, 4, 3, slots=6, width=3, hidden_size=5)
    inputs = torch.randn(7, 2, 4)
    logits, found = network.with_entropy(inputs, [2, 3])
    torch.testing.assert_close(logits, network(inputs))
    state, expected = network.core.initial_state(2), []
    for step in range(7):
        _, state = network.core(inputs[step : step + 1], state)
        if step + 1 in (2, 3, 7):
            for weighting in network.core.weightings(state).values():
                weights = weighting.detach().double().numpy()
                expected.append(-(weights * np.log2(weights + (weights == 0))).sum(-1).mean())
    assert found.item() == pytest.approx(np.mean(expected), abs=1e-4)
