"""Vector environments by their settings."""

import sys

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from ntm_rl.envs import EnvSettings, VectorEnvAdapter, make_vec_env
from ntm_rl.envs.native import NATIVE
from ntm_rl.errors import InputError

CARTPOLE = "CartPole-v1"
GAME = "popgym-RepeatPreviousEasy-v0"


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (EnvSettings(GAME), VectorEnvAdapter),
        (EnvSettings(GAME, vectorization="native"), VectorEnvAdapter),
        (EnvSettings(GAME, vectorization="sync"), DummyVecEnv),
        (EnvSettings(GAME, previous_action=True), VectorEnvAdapter),
        (EnvSettings(GAME, max_episode_steps=9), DummyVecEnv),
        (EnvSettings(CARTPOLE), VectorEnvAdapter),
        (EnvSettings(CARTPOLE, mask_velocity=True), VectorEnvAdapter),
        (EnvSettings("ntm_rl/CartPoleNoVelocity-v0"), VectorEnvAdapter),
        (EnvSettings(CARTPOLE, kwargs={"sutton_barto_reward": True}), DummyVecEnv),
        (EnvSettings(CARTPOLE, mask_velocity=True, max_episode_steps=9), DummyVecEnv),
        (EnvSettings("MountainCarContinuous-v0", mask_velocity=True), DummyVecEnv),
        (EnvSettings(CARTPOLE, vectorization="subprocess"), SubprocVecEnv),
        (EnvSettings(CARTPOLE, normalize_observation=True), VecNormalize),
    ],
)
def test_the_factory_chooses_the_vectorization_and_every_episode_is_counted(settings, kind):
    venv = make_vec_env(settings, 2, seed=0)
    assert isinstance(venv, kind)
    venv.reset()
    episodes = []
    while not episodes:
        _, _, dones, infos = venv.step(np.array([venv.action_space.sample() for _ in range(2)]))
        episodes = [infos[index]["episode"] for index in np.flatnonzero(dones)]
    assert all(episode["l"] > 0 for episode in episodes)
    venv.close()


EASY = [env_id for env_id in NATIVE if "Easy" in env_id]
EXTRAS = [{}, {"previous_action": True}, {"previous_action": True, "previous_reward": True}]


@pytest.mark.parametrize("extras", EXTRAS, ids=str)
@pytest.mark.parametrize("env_id", EASY)
def test_native_and_single_games_have_the_same_spaces_and_lengths(env_id, extras):
    lengths = []
    for kind in ("native", "sync"):
        venv = make_vec_env(EnvSettings(env_id, vectorization=kind, **extras), 2, 0)
        first = venv.reset()
        spaces_seen = (venv.observation_space, venv.action_space)
        for observation in _rows(first):
            assert venv.observation_space.contains(observation)
        actions = np.zeros((2, *venv.action_space.shape), venv.action_space.dtype)
        dones = [venv.step(actions)[2].tolist() for _ in range(410)]
        lengths.append([step for step, done in enumerate(dones, 1) if all(done)])
        if kind == "native":
            native_spaces = spaces_seen
    assert native_spaces == spaces_seen
    if not any(name in env_id for name in ("CartPole", "Cartpole", "MineSweeper")):  # their lengths are random
        assert lengths[0] == lengths[1] and len(lengths[0]) >= 2


def _rows(observations):
    if isinstance(observations, dict):
        return [{key: part[index] for key, part in observations.items()} for index in range(2)]
    return list(observations)


def test_native_games_are_played_without_popgym(monkeypatch):
    monkeypatch.setitem(sys.modules, "popgym", None)
    venv = make_vec_env(EnvSettings(GAME), 2, 0)
    assert venv.reset().shape == (2,)
    with pytest.raises(InputError, match=r"pip install \"ntm-rl\[popgym\]\""):
        make_vec_env(EnvSettings(GAME, vectorization="sync"), 2, 0)


def test_an_evaluation_leaves_the_normalisation_as_it_is():
    settings = EnvSettings(CARTPOLE, normalize_observation=True, normalize_reward=True)
    venv = make_vec_env(settings, 1, 0, training=False)
    venv.reset()
    _, rewards, _, _ = venv.step(np.array([0]))
    assert rewards[0] == 1
    assert venv.obs_rms.count < 1


@pytest.mark.parametrize(
    ("settings", "n_envs", "message"),
    [
        (EnvSettings(CARTPOLE), 0, r"n_envs = 0: must be at least 1"),
        (
            EnvSettings("Pendulum-v1", vectorization="native"),
            1,
            r"env.vectorization = 'native'.*Pendulum-v1.*valid are",
        ),
        (EnvSettings(GAME, vectorization="native", max_episode_steps=9), 1, r"env.max_episode_steps is not supported"),
        (EnvSettings(GAME, vectorization="native", mask_velocity=True), 1, r"env.mask_velocity is not supported"),
        (EnvSettings(GAME, max_episode_steps=0), 1, r"env.max_episode_steps = 0: must be at least 1"),
    ],
)
def test_impossible_vectorizations_are_refused(settings, n_envs, message):
    with pytest.raises(InputError, match=message):
        make_vec_env(settings, n_envs, 0)


def test_rewards_are_normalised_by_the_trainings_own_discount():
    venv = make_vec_env(EnvSettings("CartPole-v1", normalize_reward=True), 1, 0, gamma=0.5)
    venv.reset()
    for _ in range(3):
        venv.step(np.zeros(1, dtype=np.int64))
    assert venv.returns.tolist() == [1 + 0.5 * (1 + 0.5)]
