"""Environments whose dones, rewards, episodes or observations are unusual."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnvWrapper

from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from small_models import lstm_model

CARTPOLE = "CartPole-v1"


class Recast(VecEnvWrapper):
    """Gives dones and rewards in other types and shapes."""

    def __init__(self, venv, dones, rewards=lambda rewards: rewards):
        super().__init__(venv)
        self.dones, self.rewards = dones, rewards

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, self.rewards(rewards), self.dones(dones), infos


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int64, object, list])
def test_dones_of_other_types_train_as_booleans_do(kind):
    def trained(dones) -> torch.Tensor:
        model = lstm_model(Recast(make_vec_env(CARTPOLE, 2, seed=0), dones), n_steps=32, batch_size=64).learn(128)
        return torch.nn.utils.parameters_to_vector(model.policy.parameters())

    changed = trained(list if kind is list else lambda dones: dones.astype(kind))
    assert torch.equal(changed, trained(lambda dones: dones))


@pytest.mark.parametrize(
    "rewards", [lambda r: r.astype(np.float64), lambda r: r.astype(np.int64), list, lambda r: r[:, None]]
)
def test_rewards_of_other_types_and_shapes_are_kept_one_for_each_environment(rewards):
    env = Recast(make_vec_env(CARTPOLE, 2, seed=0), lambda dones: dones, rewards)
    model = lstm_model(env, n_steps=8, batch_size=16).learn(16)
    np.testing.assert_array_equal(model.rollout.rewards, np.ones((8, 2), np.float32))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_vector_environments_are_trained_in_as_given(mode):
    envs = gym.make_vec(CARTPOLE, 2, vectorization_mode=mode)
    model = lstm_model(envs, n_steps=64, batch_size=64).learn(128)
    assert isinstance(model.get_env(), VectorEnvAdapter) and model.get_env().envs is envs
    assert 0 < len(model.ep_info_buffer) <= 128 // 8
    model.get_env().close()


class Broken(gym.Env):
    """Shows a number that is not finite at its tenth step."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(2, np.nan if self.steps == 10 else 0, np.float32), 0.0, False, False, {}


def test_recurrent_ppo_raises_at_an_observation_that_is_not_a_number_as_with_its_own_policies():
    for policy in ("MlpNtmPolicy", "MlpLstmPolicy"):
        model = RecurrentPPO(policy, Broken(), n_steps=64, seed=0)
        with pytest.raises(ValueError, match="nan"):
            model.learn(64)
        assert model.num_timesteps == 10


class Trial(gym.Wrapper):
    """Five episodes of a monitored environment as one."""

    def reset(self, **kwargs):
        self.ended = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation, _ = self.env.reset()
            self.ended += 1
        return observation, reward, self.ended >= 5, False, info


def test_episodes_inside_a_trial_are_counted():
    model = lstm_model(Trial(Monitor(gym.make(CARTPOLE))), n_steps=128, stats_window_size=999)
    model.learn(512)
    episodes = [episode["l"] for episode in model.ep_info_buffer]
    assert sum(episodes) <= 512 < sum(episodes) + 100 and len(episodes) > 5
