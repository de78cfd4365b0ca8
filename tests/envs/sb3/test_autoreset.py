"""Vector environments of every autoreset mode play the same; others are replaced or refused."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.errors import InputError


def played(envs) -> list:
    venv = VectorEnvAdapter(envs)
    venv.seed(3)
    rng = np.random.default_rng(0)
    seen = [venv.reset()]
    for _ in range(80):
        observations, rewards, dones, infos = venv.step(rng.integers(2, size=3))
        seen += [observations, rewards, dones]
        seen += [info["terminal_observation"] for info in infos if info]
        seen += [np.array([info["episode"]["r"], info["episode"]["l"]]) for info in infos if info]
    venv.close()
    return seen


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_every_mode_plays_the_same(kind, mode):
    def make(mode):
        return gym.make_vec("CartPole-v1", 3, vectorization_mode=kind, vector_kwargs=dict(autoreset_mode=mode))

    expected, found = played(make(AutoresetMode.SAME_STEP)), played(make(mode))
    assert len(expected) > 250
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_wrapped_sync_vector_environment_keeps_its_wrapper():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    assert VectorEnvAdapter(envs).envs is envs


def test_a_batched_environment_is_replaced_with_its_options_and_a_warning():
    envs = gym.make_vec("CartPole-v1", 3, max_episode_steps=7, sutton_barto_reward=True)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP and not isinstance(envs, SyncVectorEnv)
    with pytest.warns(UserWarning, match=r"CartPole-v1.*replaced by single environments, as gymnasium.make_vec\('"):
        venv = VectorEnvAdapter(envs)
    assert isinstance(venv.envs, SyncVectorEnv) and venv.num_envs == 3
    venv.reset()
    rewards, infos = zip(
        *[(step[1], step[3]) for step in (venv.step(np.zeros(3, int)) for _ in range(40))], strict=True
    )
    assert max(np.max(each) for each in rewards) == 0  # sutton_barto_reward pays nothing but -1 at a fall
    assert all(info["episode"]["l"] <= 7 for step in infos for info in step if info)


def test_a_wrapped_batched_environment_is_refused_with_the_fix():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("CartPole-v1", 2))
    with pytest.raises(InputError, match=r"NEXT_STEP of .*SAME_STEP or DISABLED.*vectorization_mode='sync'"):
        VectorEnvAdapter(envs)
