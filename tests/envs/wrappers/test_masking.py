"""Velocity masking for single and vector environments."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import VectorizeTransformObservation

from ntm_rl.envs import EnvSettings, MaskVelocity, make_env
from ntm_rl.envs.wrappers.masking import POSITIONS
from ntm_rl.errors import InputError


@pytest.mark.parametrize(
    ("env_id", "velocities"),
    [
        ("CartPole-v1", [1, 3]),
        ("Pendulum-v1", [2]),
        ("MountainCar-v0", [1]),
        ("MountainCarContinuous-v0", [1]),
        ("Acrobot-v1", [4, 5]),
    ],
)
def test_velocities_are_hidden_and_positions_stay(env_id, velocities):
    plain, masked = gym.make(env_id), make_env(EnvSettings(env_id, mask_velocity=True))
    full, _ = plain.reset(seed=3)
    seen, _ = masked.reset(seed=3)
    np.testing.assert_array_equal(seen, np.delete(full, velocities))
    for _ in range(5):
        action = plain.action_space.sample()
        np.testing.assert_array_equal(masked.step(action)[0], np.delete(plain.step(action)[0], velocities))
    np.testing.assert_array_equal(masked.observation_space.high, np.delete(plain.observation_space.high, velocities))
    assert masked.observation_space.contains(seen)


class Lander(gym.Env):
    """Shows its eight numbers as LunarLander does: x, y, their velocities, angle, its velocity, two legs."""

    observation_space = spaces.Box(-10, 10, (8,))
    action_space = spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        return np.arange(8, dtype=np.float32), {}


def test_lunar_lander_keeps_place_angle_and_legs():
    assert MaskVelocity(Lander(), task="LunarLander").reset()[0].tolist() == [0, 1, 4, 6, 7]


def test_unknown_tasks_are_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"mask_velocity = True: not supported for ''; valid are CartPole, Pe"):
        MaskVelocity(Lander())
    with pytest.raises(InputError, match=r"for 'LunarLanding'.*Did you mean LunarLander\?"):
        MaskVelocity(Lander(), task="LunarLanding")
    assert "LunarLander" in POSITIONS


def test_a_vector_environment_is_masked_by_the_same_wrapper():
    makers = [lambda: gym.make("CartPole-v1")] * 3
    plain = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    masked = VectorizeTransformObservation(
        SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED), MaskVelocity, task="CartPole"
    )
    np.testing.assert_array_equal(masked.reset(seed=1)[0], plain.reset(seed=1)[0][:, [0, 2]])
    actions = np.array([0, 1, 1])
    np.testing.assert_array_equal(masked.step(actions)[0], plain.step(actions)[0][:, [0, 2]])
