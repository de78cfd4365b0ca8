"""The loss in a kernel against `ppo_loss`: value, metrics and gradients."""

from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from ntm_rl.agents import MlpNtmPolicy
from ntm_rl.agents.policy.kernel_networks import kernel_networks
from ntm_rl.agents.ppo.kernel_loss import clip_gradients, kernel_loss, minibatch_loss
from ntm_rl.agents.ppo.loss import ppo_loss
from ntm_rl.agents.ppo.rollout import Minibatch
from ntm_rl.kernels.loader import load_kernels

ACTIONS = {
    "discrete": spaces.Discrete(3, start=2),
    "box": spaces.Box(-2, 2, (2, 9)),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 40]),
    "multibinary": spaces.MultiBinary(5),
}
OPTIONS: dict[str, Any] = dict(clip_range=0.1, clip_range_vf=None, ent_coef=0.3, vf_coef=0.4, normalize_advantage=True)


@pytest.fixture(autouse=True)
def kernel():
    if not load_kernels():
        pytest.skip("no compiler")


def policy_of(action: str, **kwargs: Any) -> MlpNtmPolicy:
    torch.manual_seed(0)
    space = spaces.Box(-1, 1, (4,))
    core = dict(core="lstm", core_kwargs=dict(hidden_size=20))
    policy = MlpNtmPolicy(space, ACTIONS[action], lambda _: 1e-3, **{**core, "net_arch": [33], **kwargs})
    with torch.no_grad():
        for parameter in policy.parameters():  # the last layers begin near 0
            parameter.add_(0.2 * torch.randn_like(parameter))
        policy.return_scale.mean.fill_(3.0)
        policy.return_scale.std.fill_(2.0)
    return policy


def minibatch(policy: MlpNtmPolicy, length: int, batch: int) -> Minibatch:
    """A minibatch of a policy that has moved, so that the clips bite."""
    count = length * batch
    obs, resets, states = torch.randn(count, 4), torch.rand(length, batch) < 0.2, policy.initial_state(batch)
    with torch.no_grad():
        latent, _ = policy._latents(obs, states, resets)
        actions = policy._get_action_dist_from_latent(latent).get_actions()
        values, log_probs, _ = policy.evaluate_sequences(obs, actions, states, resets)
    log_probs, old_values = log_probs + 0.2 * torch.randn(count), values + torch.randn(count)
    advantages, returns = torch.randn(count), values + torch.randn(count)
    estimates = old_values, log_probs, advantages, returns
    return Minibatch(obs, actions, *estimates, states, resets, torch.arange(batch), torch.randn(50), 1.0, None)


def outcome(policy: MlpNtmPolicy, loss: Tensor, measured: dict[str, Tensor]) -> tuple[Any, ...]:
    policy.optimizer.zero_grad()
    loss.backward()
    return loss.detach(), measured, [parameter.grad.clone() for parameter in policy.parameters()]


def assert_equal_losses(policy: MlpNtmPolicy, batch: Minibatch, scale: float = 1.0, **changed: Any) -> None:
    options = {**OPTIONS, **changed}
    networks = kernel_networks(policy)
    assert networks is not None
    inputs = policy.core_outputs(batch.observations, batch.states, batch.resets)
    loss, measured = kernel_loss(policy, batch, *inputs, networks, **options)
    found = outcome(policy, scale * loss, measured)
    evaluated = policy.evaluate_sequences(*batch.inputs)
    variance = policy.return_scale.variance
    loss, measured = ppo_loss(batch, *evaluated, **options, returns_variance=variance)
    expected = outcome(policy, scale * loss, measured)
    assert list(found[1]) == list(expected[1])
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("length", "batch"), [(1, 1), (7, 3), (60, 11)])
def test_every_action_space_gives_the_same_loss_and_gradients(action, length, batch):
    policy = policy_of(action)
    assert_equal_losses(policy, minibatch(policy, length, batch))


@pytest.mark.parametrize("critic", ["shared", "detached", "separate"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], {"pi": [70, 33], "vf": []}])
def test_every_network_gives_the_same_loss_and_gradients(critic, activation, net_arch):
    policy = policy_of("discrete", critic=critic, activation_fn=activation, net_arch=net_arch)
    assert_equal_losses(policy, minibatch(policy, 9, 5))


@pytest.mark.parametrize(
    "changed", [{"clip_range_vf": 0.5}, {"normalize_advantage": False}, {"ent_coef": 0.0}, {"scale": 0.25}]
)
def test_every_option_gives_the_same_loss_and_gradients(changed):
    policy = policy_of("box")
    assert_equal_losses(policy, minibatch(policy, 9, 5), **changed)


@pytest.mark.parametrize("action", ["discrete", "multidiscrete"])
def test_values_of_actions_may_be_impossible(action):
    policy = policy_of(action)
    with torch.no_grad():
        policy.action_net.bias[1] = -torch.inf
    assert_equal_losses(policy, minibatch(policy, 9, 5))


def test_advantages_may_be_double():
    policy = policy_of("discrete")
    batch, networks = minibatch(policy, 9, 5), kernel_networks(policy)
    losses = [
        minibatch_loss(policy, networks, batch._replace(advantages=each), **OPTIONS)[0]
        for each in (batch.advantages, batch.advantages.double())
    ]
    assert losses[0] == losses[1]


def test_one_advantage_is_not_normalised():
    policy = policy_of("discrete")
    batch = minibatch(policy, 1, 1)
    assert_equal_losses(policy, batch._replace(all_advantages=batch.advantages))


@pytest.mark.parametrize("action", ACTIONS)
def test_values_that_are_not_finite_reach_the_loss(action):
    policy = policy_of(action)
    batch = minibatch(policy, 3, 2)
    networks, options = kernel_networks(policy), OPTIONS
    inputs = [each.detach() for each in policy.core_outputs(batch.observations, batch.states, batch.resets)]
    for name in ("old_log_probs", "advantages", "returns"):
        bad = batch._replace(**{name: torch.full_like(batch.returns, torch.nan)})
        assert kernel_loss(policy, bad, *inputs, networks, **options)[0].isnan()
    assert kernel_loss(policy, batch, inputs[0] * torch.nan, inputs[1], networks, **options)[0].isnan()
    assert kernel_loss(policy, batch, inputs[0], inputs[1] * torch.nan, networks, **options)[0].isnan()


def test_actions_outside_the_space_raise_an_error():
    policy = policy_of("discrete")
    batch = minibatch(policy, 3, 2)
    inputs = policy.core_outputs(batch.observations, batch.states, batch.resets)
    with pytest.raises(IndexError, match="action 3"):
        kernel_loss(policy, batch._replace(actions=batch.actions * 0 + 3), *inputs, kernel_networks(policy), **OPTIONS)


def test_sums_do_not_depend_on_the_number_of_threads():
    policy = policy_of("discrete")
    batch = minibatch(policy, 40, 30)
    networks, found = kernel_networks(policy), []
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        inputs = policy.core_outputs(batch.observations, batch.states, batch.resets)
        loss, _ = kernel_loss(policy, batch, *inputs, networks, **OPTIONS)
        found.append(torch.autograd.grad(loss, networks.parameters))
    torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("action", ACTIONS)
def test_gradients_of_gradients_are_those_of_the_eager_loss(action):
    policy = policy_of(action, critic="joint")
    batch, found = minibatch(policy, 9, 5), []
    for networks in (kernel_networks(policy), None):
        loss, _ = minibatch_loss(policy, networks, batch, **OPTIONS)
        gradients = torch.autograd.grad(loss, list(policy.parameters()), create_graph=True)
        policy.optimizer.zero_grad()
        sum(each.square().sum() for each in gradients).backward()
        found.append([parameter.grad for parameter in policy.parameters()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_gradients_are_clipped_as_by_torch(max_norm):
    torch.manual_seed(0)
    parameters, others = ([nn.Parameter(torch.zeros(size)) for size in (1, 500, 70_000)] for _ in range(2))
    for parameter, other in zip(parameters, others, strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    parameters.append(nn.Parameter(torch.zeros(3)))  # without a gradient
    norm, expected = clip_gradients(parameters, max_norm), torch.nn.utils.clip_grad_norm_(others, max_norm)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close([each.grad for each in parameters[:3]], [each.grad for each in others])


def test_norms_that_are_not_finite_leave_the_gradients():
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1.0, torch.inf, 2.0])
    assert clip_gradients([parameter], 0.5).isinf()
    assert parameter.grad.tolist() == [1.0, torch.inf, 2.0]
