"""The limit of an episode's steps, compared with POPGym's own attribute and with episodes that reach it."""

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  (registers its ids)
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.native import NATIVE
from ntm_rl.envs.sb3.episode_limit import episode_limit

HAS_NO_ATTRIBUTE = "popgym-HigherLower"
GAMES = [name for name in NATIVE if name.startswith("popgym-") and not name.startswith(HAS_NO_ATTRIBUTE)]


@pytest.mark.parametrize("game", GAMES)
def test_batched_games_have_popgyms_limit(game):
    single = gym.make(game, disable_env_checker=True).unwrapped
    limit = getattr(single, "max_episode_length", None) or single.episode_length
    assert episode_limit(make_vec_env(EnvSettings(game), 2, 0)) == limit
    assert episode_limit(make_vec_env(EnvSettings(game, vectorization="sync"), 2, 0)) == limit


@pytest.mark.parametrize("vectorization", ["native", "sync", "subprocess"])
@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("ntm_rl/MemoryChain-v0", {"length": 7}),
        ("ntm_rl/PassiveTMaze-v0", {"length": 7}),
        ("ntm_rl/EndlessTMaze-v0", {"length": 2, "corridors": 1}),
        ("ntm_rl/Copy-v0", {"min_length": 5, "max_length": 5}),
    ],
)
def test_an_episode_without_success_ends_at_the_limit(env_id, kwargs, vectorization):
    env = make_vec_env(EnvSettings(env_id, kwargs, vectorization=vectorization), 1, 0)
    env.reset()
    steps, done = 0, False
    while not done:
        _, _, (done,), _ = env.step(np.zeros((1, *env.action_space.shape), dtype=env.action_space.dtype))
        steps += 1
    assert episode_limit(env) == steps
    env.close()


class Anything(gym.Env):
    observation_space = action_space = spaces.Discrete(2)

    def __init__(self, **attributes):
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("attributes", "limit"),
    [
        ({}, None),
        ({"max_steps": 30}, 30),
        ({"max_steps": np.int64(30), "max_episode_length": 20}, 20),
        ({"max_steps": 0}, None),
        ({"max_steps": None, "episode_length": 2.5}, None),
        ({"max_steps": True}, None),
    ],
)
def test_the_smallest_positive_limit_counts(attributes, limit):
    assert episode_limit(VecNormalize(DummyVecEnv([lambda: Anything(**attributes)]), norm_obs=False)) == limit
    limited = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Anything(**attributes), 25)])
    assert episode_limit(limited) == min(limit or 25, 25)


def test_environments_in_other_processes_tell_theirs():
    env = SubprocVecEnv([lambda: gym.wrappers.TimeLimit(Anything(), 25)] * 2)
    assert episode_limit(env) == 25
    env.close()


def test_a_vector_environment_without_attributes_has_none():
    class Bare(DummyVecEnv):
        def get_attr(self, attr_name, indices=None):
            if attr_name != "render_mode":  # which SB3 reads
                raise NotImplementedError
            return [None]

    assert episode_limit(Bare([Anything])) is None
