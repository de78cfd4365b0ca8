"""Trainings of several ranks against those of one process with all environments."""

import random
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from masked_envs import Strict
from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.ppo.checkpoints import load_checkpoint, save_checkpoint
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.runs.nonfinite import NonFiniteError
from ntm_rl.envs import VectorEnvAdapter
from ntm_rl.envs.algorithmic import curriculum
from ntm_rl.envs.algorithmic.env import AlgorithmicVectorEnv
from ntm_rl.envs.memory.passive_tmaze import PassiveTMazeVectorEnv
from ntm_rl.envs.sb3.making import SpawnedSeedDummyVecEnv
from process_groups import run_ranks

StrictComponents = partial(Strict, "multi_discrete", "info")
LSTM = {"core": "lstm", "core_kwargs": {"hidden_size": 6}}


class DoubleFlatten(FlattenExtractor):
    def forward(self, observations):
        return super().forward(observations).double()


class Convolution(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 9, 9), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8))

    def forward(self, observations):
        return self.layers(observations.double())


class Cue(gym.Env):
    """Rewards the sign of the first observation, which only the first step of an episode shows."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(3, 9))
        self.cue = self.np_random.normal()
        return np.float32([self.cue, 1, 100]), {}

    def step(self, action):
        self.time += 1
        reward = float((self.cue > 0) == action) + self.np_random.normal()
        ended = self.time == self.length
        return np.float32([0, self.np_random.normal(3, 2), self.time]), reward, ended and self.length % 2, ended, {}


class Steer(Cue):
    """As `Cue`, with continuous actions."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        return super().step(int(action.sum() > 0))


class Picture(Cue):
    """As `Cue`, with the observation as an image."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def _image(self, observation):
        return np.full((1, 36, 36), np.clip(50 * observation[0] + 10 * self.time + 100, 0, 255), np.uint8)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return self._image(observation), info

    def step(self, action):
        observation, *rest = super().step(action)
        return self._image(observation), *rest


def trained(rollouts, n_envs, env, options, policy_kwargs, size=1, batch_size=64):
    """Trains in float64 and returns weights, log and episode returns."""
    torch.set_default_dtype(torch.float64)
    try:
        model, log = make(n_envs // size, env, options, policy_kwargs, batch_size), []
        model._dump_logs = model.dump_logs = lambda *_: log.append(dict(model.logger.name_to_value))
        model.learn(rollouts * 16 * n_envs)
        tensors = [*model.policy.state_dict().values(), *(model.credit.state_dict().values() if model.credit else ())]
        weights = torch.cat([each.detach().flatten() for each in tensors])
        levels = [each.level for each in curricula(model.get_env())]
        return weights.numpy(), log, [episode["r"] for episode in model.ep_info_buffer], levels
    finally:
        torch.set_default_dtype(torch.float32)


def make(n_envs, env, options, policy_kwargs, batch_size=64):
    if env == "copy":
        task = AlgorithmicVectorEnv(n_envs, "copy", curriculum="lookahead", bits=1, max_length=6)
        envs = VectorEnvAdapter(task)
    else:
        envs = SpawnedSeedDummyVecEnv([lambda: gym.wrappers.TimeLimit(Monitor(env()), 7)] * n_envs)
    options = dict(options)
    if options.pop("normalized", False):
        envs = VecNormalize(envs)
    extractor = Convolution if env is Picture else DoubleFlatten
    return MemoryPPO(
        "CnnNtmPolicy" if env is Picture else "MlpNtmPolicy",
        envs,
        policy_kwargs={"features_extractor_class": extractor, **LSTM, **policy_kwargs},
        seed=5,
        device="cpu",
        **{
            **{"n_steps": 16, "sequence_length": 8, "batch_size": batch_size, "n_epochs": 3, "learning_rate": 3e-3},
            **options,
        },
    )


CASES = {
    "lstm": (Cue, {}, {}),
    "ntm": (Cue, {}, {"core": "ntm", "core_kwargs": {"slots": 5, "width": 3, "hidden_size": 6}}),
    "normalised": (Cue, {"normalized": True}, {}),
    "target_kl": (Cue, {"target_kl": 1e-4}, {}),
    "curriculum": ("copy", {}, {}),
    "separate critic": (Cue, {}, {"critic": "separate"}),
    "image": (Picture, {}, {}),
    "measured lambda": (Cue, {"gae_lambda": "auto"}, {}),  # the default; here over more rollouts
    "fixed lambda": (Cue, {"gae_lambda": 0.9}, {}),
    "continuous": (Steer, {"clip_range_vf": 0.2, "ent_coef": 0.01}, {}),
    "state-dependent exploration": (Steer, {"use_sde": True, "sde_sample_freq": 4}, {}),
    "fewer sequences than ranks": (Cue, {"batch_size": 8, "n_epochs": 1}, {}),
    "action masks": (Strict, {"action_masks": True}, {}),
    "action masks of several components": (StrictComponents, {"action_masks": True, "sequence_length": 7}, {}),
    "sequences of two lengths": (Cue, {"sequence_length": 7, "recompute_states": True}, {}),
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_the_weights_of_one_process(case, monkeypatch):
    monkeypatch.setattr(curriculum, "ADVANCE_BELOW", 0.6)  # random answers reach the next levels
    monkeypatch.setattr(curriculum, "EPISODES", 8)
    rollouts = 6 if case == "measured lambda" else 3
    weights, log, returns, levels = trained(rollouts, 8, *CASES[case])
    first, second = run_ranks(trained, 2, rollouts, 8, *CASES[case], 2)
    if case == "curriculum":
        assert levels[0] > 1
    if case == "target_kl":
        assert log[-1]["train/n_updates"] < 3 * rollouts
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[0], weights, rtol=0, atol=1e-10)
    assert first[2] == second[2]
    np.testing.assert_allclose(first[2], returns)
    assert first[3] == second[3] == levels
    for row, expected in zip(first[1], log, strict=True):
        for name in set(expected) - {"time/fps", "time/time_elapsed"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("case", ["lstm", "ntm"])
def test_two_ranks_of_sixteen_environments_learn_the_weights_of_one_process(case):
    weights, *_ = trained(3, 32, *CASES[case], batch_size=256)
    for each, *_ in run_ranks(trained, 2, 3, 32, *CASES[case], 2, 256):
        np.testing.assert_allclose(each, weights, rtol=0, atol=1e-10)


def test_four_ranks_learn_the_weights_of_one_process():
    weights, *_ = trained(2, 8, *CASES["normalised"])
    for each, *_ in run_ranks(trained, 4, 2, 8, *CASES["normalised"], 4):
        np.testing.assert_allclose(each, weights, rtol=0, atol=1e-10)


def new(n_envs):
    sizes = {"n_steps": 16, "sequence_length": 8, "batch_size": 64, "n_epochs": 1}
    game = VectorEnvAdapter(PassiveTMazeVectorEnv(n_envs))
    return MemoryPPO("MlpNtmPolicy", game, policy_kwargs=LSTM, learning_rate=1e-3, seed=5, device="cpu", **sizes)


def resumed(folder):
    """Trains for two rollouts, saves, loads into a new model and trains for two more."""
    model = new(4)
    model.learn(2 * 128)
    save_checkpoint(model, folder)
    ranks, model = model.ranks, new(4)
    ranks.any(False)  # until the file is written
    load_checkpoint(next(folder.glob("step-*")), model)
    return weights_of(model.learn(2 * 128, reset_num_timesteps=False)), random.random(), np.random.random()


def weights_of(model):
    return torch.cat([each.detach().flatten() for each in model.policy.state_dict().values()]).numpy()


def whole():
    return weights_of(new(4).learn(4 * 128)), random.random(), np.random.random()


def test_ranks_resume_from_one_checkpoint_as_if_they_had_not_stopped(tmp_path):
    expected, found = run_ranks(whole, 2), run_ranks(resumed, 2, tmp_path)
    for (weights, *numbers), (expected_weights, *expected_numbers) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(weights, expected_weights)
        assert numbers == expected_numbers
    assert found[0][1:] != found[1][1:]  # each rank has its own generators of Python and NumPy


def test_another_number_of_ranks_resumes_with_new_episodes(tmp_path):
    run_ranks(resumed, 2, tmp_path)
    model = new(8)
    with pytest.warns(UserWarning, match="has 2 ranks of 4 sub-environments, the model 8 sub-environments: new episo"):
        load_checkpoint(next(tmp_path.glob("step-*")), model)
    assert model.num_timesteps == 256
    model.learn(128, reset_num_timesteps=False)
    assert model.num_timesteps == 384


def failed(quantity):
    """Returns the error of a training in which rank 1 has a value that is not finite."""
    model = new(4)

    class Spoil(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            if model.ranks.rank == 1 and quantity == "loss":
                model.rollout.returns[3, 2] = np.nan

    if model.ranks.rank == 1 and quantity == "reward":
        model.env.envs.play = lambda actions: (
            model.env.envs._observations,
            np.full(4, np.inf),
            np.zeros(4) > 0,
            [False] * 4,
        )
    with pytest.raises(NonFiniteError) as raised:
        model.learn(256, Spoil())
    return str(raised.value), raised.value.report["quantity"]


def test_a_reward_that_is_not_finite_ends_the_training_on_all_ranks():
    message = "reward of environment 4 at step 0 of the rollout is inf"
    assert run_ranks(failed, 2, "reward") == [(message, "reward")] * 2


def test_a_loss_that_is_not_finite_ends_the_training_on_all_ranks():
    first, second = run_ranks(failed, 2, "loss")
    assert first == second
    assert "first inputs: environment 6, steps [0, 7]" in first[0]
