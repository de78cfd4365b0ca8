"""Sampling and evaluating discrete actions, against torch.distributions and exact probabilities."""

import torch
from torch.distributions import Categorical

from ntm_rl.agents.policy import categorical


def test_log_probabilities_and_entropies_equal_torchs():
    torch.manual_seed(0)
    logits, actions = 5 * torch.randn(50, 7), torch.randint(7, (50,))
    log_prob, entropy = categorical.evaluate(logits, actions)
    torch.testing.assert_close(log_prob, Categorical(logits=logits).log_prob(actions))
    torch.testing.assert_close(entropy, Categorical(logits=logits).entropy())


def test_samples_have_the_softmaxs_frequencies_and_their_own_log_probability():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.05, 0.6, 0.0, 0.35])
    actions, log_prob = categorical.sample(probabilities.log().clamp(min=-1e9).expand(40_000, 4), deterministic=False)
    frequencies = torch.bincount(actions, minlength=4) / 40_000
    torch.testing.assert_close(frequencies, probabilities, atol=0.01, rtol=0)  # four standard deviations
    assert frequencies[2] == 0
    torch.testing.assert_close(log_prob, probabilities.log()[actions])


def test_deterministic_actions_are_the_most_likely():
    actions, _ = categorical.sample(torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 0.0]]), deterministic=True)
    assert actions.tolist() == [1, 0]
