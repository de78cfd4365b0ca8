"""Seeds and episodes of sub-environments."""

import numpy as np
import pytest
from stable_baselines3 import PPO

from ntm_rl.envs import EnvSettings, make_env, make_vec_env
from ntm_rl.envs.memory.memory_chain import MemoryChainVectorEnv
from ntm_rl.envs.sb3.seeding import spawn_seed
from ntm_rl.errors import InputError

CHAIN = {"bits": 40, "length": 1}  # 2^40 episodes: equal ones are no coincidence


def first_observations(settings, n_envs, seed):
    venv = make_vec_env(settings, n_envs, seed)
    seen = venv.reset()
    venv.close()
    return seen


def test_a_spawned_seed_is_numpys():
    assert spawn_seed(5, 3) == int(np.random.SeedSequence(5).spawn(4)[3].generate_state(1)[0]) >> 2
    assert spawn_seed(5, 3, 1) != spawn_seed(5, 3)


ALL_KINDS = [
    EnvSettings("Pendulum-v1"),
    EnvSettings("Pendulum-v1", vectorization="subprocess"),
    EnvSettings("ntm_rl/MemoryChain-v0", kwargs=CHAIN),
    EnvSettings("ntm_rl/MemoryChain-v0", kwargs=CHAIN, vectorization="sync"),
    EnvSettings("ntm_rl/Copy-v0", kwargs={"bits": 40, "min_length": 9}),
]


@pytest.mark.parametrize("settings", ALL_KINDS, ids=str)
def test_runs_with_neighbouring_seeds_share_no_episodes(settings):
    rows = np.concatenate([first_observations(settings, 8, seed) for seed in (0, 1)])
    assert len(np.unique(rows, axis=0)) == 16


@pytest.mark.parametrize("settings", ALL_KINDS[:1] + ALL_KINDS[2:], ids=str)
def test_a_sub_environment_plays_the_same_episodes_for_any_number_of_them(settings):
    few, many = first_observations(settings, 2, 3), first_observations(settings, 5, 3)
    np.testing.assert_array_equal(few, many[:2])
    for copy in range(5):
        single, _ = make_env(settings).reset(seed=spawn_seed(3, copy))
        np.testing.assert_array_equal(many[copy], single)


def test_an_algorithm_that_seeds_its_environments_spawns_the_same_seeds():
    venv = make_vec_env(ALL_KINDS[0], 2, 99)
    PPO("MlpPolicy", venv, seed=3, n_steps=4, batch_size=4)
    np.testing.assert_array_equal(venv.reset(), first_observations(ALL_KINDS[0], 2, 3))


def test_a_vector_environment_that_is_reset_directly_counts_up_as_gymnasiums_do():
    envs = MemoryChainVectorEnv(3, **CHAIN)
    counted, listed = envs.reset(seed=7)[0], envs.reset(seed=[7, 8, 9])[0]
    np.testing.assert_array_equal(counted, listed)
    np.testing.assert_array_equal(counted[2], MemoryChainVectorEnv(1, **CHAIN).reset(seed=9)[0][0])
    with pytest.raises(InputError, match=r"seed = \[1, 2\]: must be one number, or 3, one for each sub-environment"):
        envs.reset(seed=[1, 2])


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match=r"seed = -1: must be at least 0"):
        make_vec_env(ALL_KINDS[0], 2, -1)
