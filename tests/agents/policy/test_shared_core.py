"""How much actor and critic train the core that they share."""

import pytest
import torch

from ntm_rl.agents.policy.shared_core import balance


@pytest.mark.parametrize(("size", "kept"), [(0.05, 1.0), (0.1, 1.0), (100.0, 0.001)])
def test_the_critics_gradient_is_at_most_a_tenth_of_the_actors(size, kept):
    torch.manual_seed(0)
    outputs, of_actor, of_critic = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4), torch.randn(3, 4)
    of_critic *= size * of_actor.norm() / of_critic.norm()
    for_actor, for_critic = balance(outputs)
    ((for_actor * of_actor).sum() + (for_critic * of_critic).sum()).backward()
    torch.testing.assert_close(outputs.grad, of_actor + kept * of_critic)


def test_values_pass_unchanged():
    outputs = torch.randn(3, 4)
    assert all(torch.equal(each, outputs) for each in balance(outputs))


def test_a_critic_alone_trains_the_core():
    outputs = torch.randn(3, 4, requires_grad=True)
    balance(outputs)[1].sum().backward()
    assert torch.equal(outputs.grad, torch.ones(3, 4))


def test_an_actor_without_a_gradient_keeps_the_critics_out():
    outputs = torch.randn(3, 4, requires_grad=True)
    for_actor, for_critic = balance(outputs)
    (0 * for_actor.sum() + for_critic.sum()).backward()
    assert torch.equal(outputs.grad, torch.zeros(3, 4))
