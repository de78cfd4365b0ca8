"""The JAX peer of the speed benchmark plays Gymnasium's CartPole."""

import gymnasium as gym
import numpy as np
import pytest

jax = pytest.importorskip("jax")


def test_the_physics_are_those_of_gymnasium():
    from ntm_rl.agents.speed import jax_peer

    env, rng = gym.make("CartPole-v1"), np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    for _ in range(200):
        action = rng.integers(2)
        expected, _, fallen, _, _ = env.step(action)
        after, has_fallen = jax_peer._cart_pole(observation[None], np.array([action]))
        np.testing.assert_allclose(after[0], expected, atol=1e-5)
        assert bool(has_fallen[0]) == fallen
        observation = env.reset()[0] if fallen else expected
