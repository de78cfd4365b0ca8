"""The measured lambda: sums by lag against loops, and its value for early and late rewards."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.ppo.checkpoints import load_checkpoint, save_checkpoint
from ntm_rl.agents.ppo.credit import BOUNDS, FIRST_LAMBDA, GROUPS, CreditHorizon, errors_by_lag, lag_weights


class RandomEnv(gym.Env):
    """Random observations and rewards; an episode ends after five steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.normal(size=3).clip(-1, 1).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        observation = self.np_random.normal(size=3).clip(-1, 1).astype(np.float32)
        return observation, self.np_random.normal(), self.steps == 5, False, {}


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
def test_errors_are_summed_by_lag_within_an_episode(gamma):
    torch.manual_seed(0)
    errors, ends = torch.randn(12, 3).double(), torch.rand(12, 3) < 0.2
    found = errors_by_lag(errors, ends, gamma)
    for env in range(3):
        for step in range(12):
            expected = torch.zeros(GROUPS).double()
            for later in range(step, 12):
                lag = later - step
                group = max(index for index, bound in enumerate(BOUNDS[:-1]) if bound <= lag)
                expected[group] += gamma**lag * errors[later, env]
                if ends[later, env]:
                    break
            torch.testing.assert_close(found[step, env], expected)


def test_the_weight_of_a_group_is_the_mean_power_over_its_lags():
    weights = lag_weights([0.0, 0.5, 1.0])
    assert weights[0].tolist() == [1.0] + [0.0] * (GROUPS - 1)
    assert weights[1, :4].tolist() == pytest.approx(
        [1, 0.5, (0.5**2 + 0.5**3) / 2, sum(0.5**k for k in range(4, 8)) / 4]
    )
    assert torch.equal(weights[2], torch.ones(GROUPS))


@pytest.mark.parametrize(("delay", "low", "high"), [(0, 0.0, 0.5), (20, 0.9, 1.0)])
def test_lambda_follows_the_delay_of_the_reward(delay, low, high):
    """One of two actions is right; its reward comes `delay` steps later and is not in the values."""
    torch.manual_seed(0)
    credit = CreditHorizon(0.8)
    for _ in range(60):
        right = (torch.rand(128, 16) < 0.5).float()
        scores = torch.stack([right - 0.5, 0.5 - right], dim=2)
        errors = torch.randn(128, 16)
        errors[delay:] += (right - 0.5)[: 128 - delay]
        credit.update(torch.randn(128, 16, 3), scores, errors, torch.zeros(128, 16, dtype=torch.bool), 0.99)
    assert low <= credit.value <= high


def test_lambda_stays_at_its_start_without_a_signal():
    torch.manual_seed(0)
    credit = CreditHorizon(0.9)
    for _ in range(3):  # too few rollouts to tell anything
        credit.update(*torch.randn(2, 16, 4, 3), torch.randn(16, 4), torch.zeros(16, 4, dtype=torch.bool), 0.99)
    assert credit.value.item() == pytest.approx(0.9)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3])], ids=str)
def test_scores_are_the_gradient_of_the_last_layer(space):
    """Summed over the steps with any weights, against backpropagation."""
    env = DummyVecEnv([lambda: RandomEnv(spaces.Box(-1, 1, (3,)), space)] * 2)
    model = MemoryPPO("MlpNtmPolicy", env, n_steps=8, sequence_length=4, gae_lambda="auto", seed=0)
    model.learn(16)
    batch = model.rollout.sequence(1)
    features, scores = model.policy.action_scores(*batch)
    weights = torch.randn(8)
    _, log_probs, _ = model.policy.evaluate_sequences(*batch)
    (expected,) = torch.autograd.grad((log_probs * weights).sum(), model.policy.action_net.weight)
    torch.testing.assert_close((scores * weights.unsqueeze(1)).T @ features, expected)


def test_the_measured_lambda_changes_advantages_but_not_returns():
    kwargs = dict(n_steps=64, sequence_length=16, seed=0)
    fixed, measured = (
        MemoryPPO("MlpNtmPolicy", "CartPole-v1", gae_lambda=value, **kwargs).learn(64).rollout
        for value in (0.95, "auto")
    )
    torch.testing.assert_close(measured.returns, fixed.returns)
    last = torch.zeros(1) if fixed.ends[-1] else (fixed.returns[-1] - torch.from_numpy(fixed.rewards[-1])) / 0.99
    fixed.compute_advantages(last, 0.99, FIRST_LAMBDA)
    torch.testing.assert_close(measured.advantages, fixed.advantages, rtol=1e-3, atol=1e-4)


def test_a_saved_model_keeps_its_lambda(tmp_path):
    model = MemoryPPO("MlpNtmPolicy", "CartPole-v1", n_steps=16, gae_lambda="auto", seed=0).learn(32)
    model.credit.value.fill_(0.7)
    model.save(tmp_path / "model.zip")
    loaded = MemoryPPO.load(tmp_path / "model.zip")
    for name, kept in model.credit.state_dict().items():
        torch.testing.assert_close(loaded.credit.state_dict()[name], kept)


def test_a_checkpoint_restores_the_statistics(tmp_path):
    def make():
        return MemoryPPO("MlpNtmPolicy", "CartPole-v1", n_steps=16, gae_lambda="auto", seed=0)

    model, other = make().learn(48), make()
    load_checkpoint(save_checkpoint(model, tmp_path), other)
    assert model.credit.weight > 0
    for name, kept in model.credit.state_dict().items():
        torch.testing.assert_close(other.credit.state_dict()[name], kept)
