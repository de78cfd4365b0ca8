"""Rescaled actions and supported action spaces."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction

from ntm_rl.envs import EnvSettings, make_env, make_vec_env
from ntm_rl.envs.wrappers.actions import RescaledAction
from ntm_rl.errors import InputError


class Heater(gym.Env):
    """Shows the action that it was given."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,))

    def __init__(self, low=0.0, high=10_000.0, dtype="float32"):
        self.action_space = spaces.Box(low, high, (2,), np.dtype(dtype).type)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return action.astype(np.float32), 0.0, False, False, {}


gym.register("Heater-v0", entry_point=Heater)


def test_actions_are_scaled_as_gymnasiums_wrapper_scales_them():
    ours, theirs = RescaledAction(Heater(-3.0, 10.0)), RescaleAction(Heater(-3.0, 10.0), np.float32(-1), np.float32(1))
    assert ours.action_space == theirs.action_space
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32):
        np.testing.assert_allclose(ours.step(action)[0], theirs.step(action)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_integers_are_rounded_to_the_nearest(dtype):
    env = RescaledAction(Heater(0, 255, dtype))
    assert env.action_space == spaces.Box(-1, 1, (2,), np.float32)
    assert env.step(np.array([-1.0, 1.0], np.float32))[0].tolist() == [0, 255]
    assert env.step(np.array([0.01, -5.0], np.float32))[0].tolist() == [129, 0]  # 128.775; what is outside is clipped


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_the_largest_bounds_keep_their_signs(dtype):
    limits = np.iinfo(dtype)
    env = RescaledAction(Heater(limits.min, limits.max, dtype))
    lowest, highest = env.step(np.array([-1.0, 1.0], np.float32))[0].astype(float).tolist()
    assert lowest == float(limits.min) and highest == pytest.approx(float(limits.max))


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
def test_rescaling_leaves_the_previous_action_unscaled(vectorization):
    settings = EnvSettings("Heater-v0", rescale_action=True, previous_action=True, vectorization=vectorization)
    venv = make_vec_env(settings, 2, 0)
    assert venv.action_space == spaces.Box(-1, 1, (2,), np.float32)
    venv.reset()
    seen, *_ = venv.step(np.array([[-1, 1], [0, 0.5]], np.float32))
    assert seen["observation"].tolist() == [[0, 10_000], [5000, 7500]]
    assert seen["previous_action"].tolist() == [[-1, 1], [0, 0.5]]


def test_pendulum_is_scaled_in_processes_too():
    settings = EnvSettings("Pendulum-v1", rescale_action=True)
    venvs = [make_vec_env(settings, 2, 0)]
    venvs.append(make_vec_env(EnvSettings("Pendulum-v1", rescale_action=True, vectorization="subprocess"), 2, 0))
    actions = np.array([[1.0], [-0.5]], np.float32)
    seen = [(venv.reset(), venv.step(actions)[0])[1] for venv in venvs]
    np.testing.assert_array_equal(*seen)
    single = make_env(EnvSettings("Pendulum-v1"))
    venvs[0].seed(1)
    single.reset(seed=venvs[0]._seeds[0]), venvs[0].reset()
    np.testing.assert_allclose(venvs[0].step(actions)[0][0], single.step(np.array([2.0], np.float32))[0], rtol=1e-6)
    venvs[1].close()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "ntm_rl/Copy-v0"])
def test_actions_without_bounds_are_refused(env_id):
    with pytest.raises(InputError, match=r"env.rescale_action = True: the action space .* is not a bounded Box"):
        make_vec_env(EnvSettings(env_id, rescale_action=True), 2, 0)
