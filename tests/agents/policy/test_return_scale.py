"""PopArt: running statistics, and values that a change of scale leaves as they are."""

import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from torch import nn

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.policy.files import load_agent, load_checkpoint_agent, save_agent
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.policy.return_scale import MIN_WEIGHT, ReturnScale
from ntm_rl.agents.ppo.checkpoints import save_checkpoint

SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=[8])


def test_values_are_the_layers_until_returns_have_been_seen():
    scale, outputs = ReturnScale(), torch.randn(5)
    assert torch.equal(scale(outputs), outputs)


def test_the_first_returns_set_the_scale_and_leave_the_layer():
    scale, layer = ReturnScale(), nn.Linear(3, 1)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    scale.update(layer, torch.tensor([[1.0, 3.0], [5.0, 7.0]]))
    assert torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)
    assert scale.mean == 4 and scale.variance == pytest.approx(5)


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e3])
def test_a_change_of_scale_leaves_values_as_they_are(size):
    torch.manual_seed(0)
    scale, layer, features = ReturnScale().double(), nn.Linear(3, 1).double(), torch.randn(10, 3).double()
    scale.update(layer, torch.randn(100))
    before = scale(layer(features).flatten())
    scale.update(layer, size * torch.randn(100) + 5 * size)
    after = scale(layer(features).flatten())
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_the_statistics_are_those_of_weighted_rollouts():
    """Against moments of all returns, weighted by the rollout that they are from."""
    random = np.random.default_rng(0)
    rollouts = [random.normal(number, 1 + number, 50) for number in range(60)]
    scale, layer, weights = ReturnScale().double(), nn.Linear(1, 1).double(), np.zeros(0)
    for number, returns in enumerate(rollouts, 1):
        scale.update(layer, torch.from_numpy(returns))
        newest = max(1 / number, MIN_WEIGHT)
        weights = np.append(weights * (1 - newest), newest)
    each, seen = np.repeat(weights / 50, 50), np.concatenate(rollouts)
    mean = (each * seen).sum()
    assert scale.mean.item() == pytest.approx(mean)
    assert scale.variance.item() == pytest.approx((each * (seen - mean) ** 2).sum())


def test_equal_returns_give_finite_values():
    scale, layer = ReturnScale(), nn.Linear(3, 1)
    for reward in (0.0, 0.0, 1.0, 1.0):
        scale.update(layer, torch.full((20,), reward))
        assert torch.isfinite(scale(layer(torch.randn(4, 3)))).all()


@pytest.mark.parametrize("size", [1e25, 3e38, float("inf"), float("nan")])
def test_returns_whose_variance_overflows_change_nothing(size):
    scale, layer = ReturnScale(), nn.Linear(3, 1)
    scale.update(layer, torch.randn(20))
    before = [tensor.clone() for tensor in (*scale.buffers(), *layer.parameters())]
    scale.update(layer, size * torch.tensor([1.0, -1.0, 1.0]))
    assert all(map(torch.equal, before, (*scale.buffers(), *layer.parameters())))


def make_model(algorithm=MemoryPPO):
    return algorithm("MlpNtmPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, policy_kwargs=SMALL, seed=0)


@pytest.fixture(scope="module")
def trained() -> MemoryPPO:
    return make_model().learn(96)


def loaded(trained, folder) -> MlpNtmPolicy:
    trained.save(folder / "model.zip")
    return MemoryPPO.load(folder / "model.zip").policy


def with_parameters(trained, folder) -> MlpNtmPolicy:
    model = make_model()
    model.set_parameters(trained.get_parameters())
    return model.policy


def from_policy_file(trained, folder) -> MlpNtmPolicy:
    trained.policy.save(folder / "policy.zip")
    return MlpNtmPolicy.load(folder / "policy.zip")


def from_agent(trained, folder) -> MlpNtmPolicy:
    save_agent(trained.policy, folder / "agent")
    return load_agent(folder / "agent", "cpu").policy


def from_checkpoint(trained, folder) -> MlpNtmPolicy:
    return load_checkpoint_agent(save_checkpoint(trained, folder), "cpu").policy


@pytest.mark.parametrize("copy", [loaded, with_parameters, from_policy_file, from_agent, from_checkpoint])
def test_a_copy_of_a_policy_has_its_statistics_and_values(trained, tmp_path, copy):
    policy = copy(trained, tmp_path)
    assert policy.return_scale.count == 3 and policy.return_scale.mean > 1
    obs, state, resets = torch.randn(2, 4), policy.initial_state(2), torch.ones(2, dtype=torch.bool)
    torch.testing.assert_close(policy.values(obs, state, resets), trained.policy.values(obs, state, resets))


def test_recurrent_ppo_leaves_values_as_the_network_gives_them():
    scale = make_model(RecurrentPPO).learn(64).policy.return_scale
    assert [tensor.item() for tensor in (scale.mean, scale.std, scale.count)] == [0, 1, 0]
