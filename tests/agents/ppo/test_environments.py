"""Environments whose dones, rewards, episodes or observations are unusual."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.errors import InputError
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


class Simulator(VecEnv):
    """A user's own vector environment, whose attributes are whatever `found` returns."""

    def __init__(self, found):
        self.found = lambda name: [None, None]
        super().__init__(2, spaces.Box(-1, 1, (3,)), spaces.Discrete(3))
        self.found = found

    def reset(self):
        return np.zeros((2, 3), np.float32)

    def step_async(self, actions):
        pass

    def step_wait(self):
        return np.zeros((2, 3), np.float32), np.ones(2), np.zeros(2, dtype=bool), [{}, {}]

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return self.found(attr_name)

    def set_attr(self, attr_name, value, indices=None):
        pass

    def env_method(self, method_name, *args, indices=None, **kwargs):
        return [None, None]

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False, False]


class Brief(Simulator):
    """Has only the attributes that RecurrentPPO needs."""

    def __init__(self):
        self.num_envs, self.render_mode = 2, None
        self.observation_space, self.action_space = spaces.Box(-1, 1, (3,)), spaces.Discrete(3)
        self.found = lambda name: [None, None]


def failing(name):
    raise RuntimeError("the simulator has no attributes")


@pytest.mark.parametrize("found", [lambda name: [None, None], lambda name: [], lambda name: None, failing])
def test_vector_environments_that_cannot_tell_attributes_train_with_chosen_sizes(found):
    model = lstm_model(Simulator(found)).learn(1)
    assert model.num_timesteps == 2 * model.n_steps and model._masks is None


def test_a_vector_environment_without_the_attributes_of_its_base_class_trains():
    assert lstm_model(Brief(), n_steps=8, batch_size=16).learn(16).num_timesteps == 16


class LostError(Exception):
    pass


class Edited(gym.Wrapper):
    """CartPole whose steps pass through a function."""

    def __init__(self, edit):
        super().__init__(gym.make(CARTPOLE))
        self.edit = edit

    @property
    def max_steps(self):
        raise RuntimeError("not before the first reset")

    def step(self, action):
        return self.edit(*self.env.step(action))

    def hello(self):
        return "hello"


def test_the_methods_of_the_users_wrappers_remain_in_reach():
    model = lstm_model(Monitor(Edited(lambda *step: step)), n_steps=64).learn(64)
    monitor, inner = model.get_env().envs[0], lstm_model(Edited(lambda *step: step)).get_env().envs[0].env
    assert monitor.get_episode_lengths() and inner.hello() == "hello"
    model.get_env().envs[0].set_wrapper_attr("edit", "new")
    assert monitor.env.env.edit == "new"
    with pytest.raises(AttributeError, match="goodbye"):
        monitor.goodbye()


@pytest.mark.parametrize("error", [LostError("lost"), SystemExit(0)])
def test_an_environments_error_keeps_its_type_and_gets_a_note(error):
    def fail(*step):
        raise error

    with pytest.raises(type(error)) as raised:
        lstm_model(Edited(fail), n_steps=8).learn(8)
    assert raised.value is error and error.__notes__ == ["env = CartPoleEnv, step 1: step raised this error"]


def test_arrays_without_axes_are_rewards_without_a_warning(recwarn):
    model = lstm_model(Edited(lambda o, r, *rest: (o, np.array(r), *rest)), n_steps=8).learn(8)
    assert model.rollout.rewards.sum() == 8 and not [each for each in recwarn if "read as" in str(each.message)]


def test_flags_and_rewards_that_sb3_takes_are_taken_with_a_warning(recwarn):
    def numbers(observation, reward, terminated, truncated, info):
        return observation, np.array([reward]), int(terminated), None, info

    model = lstm_model(Edited(numbers), n_steps=64).learn(64)
    same = lstm_model(DummyVecEnv([lambda: Edited(lambda *step: step)]), n_steps=64).learn(64)
    assert np.array_equal(model.rollout.ends, same.rollout.ends) and same.rollout.ends.any()
    assert np.array_equal(model.rollout.rewards, same.rollout.rewards)
    told = [str(each.message) for each in recwarn if "read as" in str(each.message)]
    assert told == [
        "env = CartPoleEnv, step 1: reward is an array of shape (1,) and type float64, read as float(reward); "
        "return that",
        "env = CartPoleEnv, step 1: terminated is 0, read as bool(terminated); return that",
        "env = CartPoleEnv, step 1: truncated is None, read as bool(truncated); return that",
    ]


@pytest.mark.parametrize("terminated", ["no", 2, np.zeros(2, dtype=bool), [False, True]])
def test_flags_without_a_clear_meaning_are_refused(terminated):
    with pytest.raises(InputError, match=r"terminated that is .*must be True or False"):
        lstm_model(Edited(lambda o, r, t, u, i: (o, r, terminated, u, i)), n_steps=8).learn(8)
