"""The package's own ids."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from ntm_rl.envs.registration import NO_VELOCITY


def test_an_id_with_the_packages_name_needs_no_import():
    code = "import gymnasium; print(gymnasium.make('ntm_rl:ntm_rl/CartPoleNoVelocity-v0').observation_space.shape)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "(2,)"


@pytest.mark.parametrize("name", [name for name in NO_VELOCITY if "Lunar" not in name])  # that one needs Box2D
def test_a_registered_task_is_the_original_without_velocities(name):
    ours, original = gym.make(f"ntm_rl/{name}"), gym.make(NO_VELOCITY[name])
    kept = {"CartPole": [0, 2], "Pendulum": [0, 1], "MountainCarContinuous": [0]}[original.spec.name]
    for seed in (0, None):  # two episodes
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], original.reset(seed=seed)[0][kept])
        ended, steps = False, 0
        original.action_space.seed(3)
        while not ended:
            action = original.action_space.sample()
            seen, expected = ours.step(action), original.step(action)
            np.testing.assert_array_equal(seen[0], expected[0][kept])
            assert seen[1:4] == expected[1:4]
            ended, steps = seen[2] or seen[3], steps + 1
        assert steps <= original.spec.max_episode_steps


def test_the_time_limit_of_a_registered_task_can_be_raised():
    assert gym.make("ntm_rl/PendulumNoVelocity-v0", max_episode_steps=1000).spec.max_episode_steps == 1000
    env = gym.make("ntm_rl/PendulumNoVelocity-v0", max_episode_steps=300)
    env.reset(seed=0)
    assert [step for step in range(1, 301) if env.step(env.action_space.sample())[3]] == [300]


def test_environments_alone_load_neither_torch_nor_sb3():
    code = (
        "import sys; from ntm_rl.envs import EnvSettings, PreviousStepVector, make_env; import ntm_rl.envs.native; "
        "make_env(EnvSettings('CartPole-v1', mask_velocity=True, previous_action=True)); "
        "print([name for name in ('torch', 'stable_baselines3', 'popgym', 'minigrid') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
