"""The batched CartPole compared with Gymnasium's and POPGym's, with the same states and actions."""

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  (registers its ids)
import pytest

from ntm_rl.envs import EnvSettings, make_env, make_vec_env
from ntm_rl.envs.batched.cartpole import CARTPOLE
from ntm_rl.errors import InputError

SETTINGS = {
    "CartPole-v1": EnvSettings("CartPole-v1"),
    "ntm_rl/CartPoleNoVelocity-v0": EnvSettings("CartPole-v1", mask_velocity=True),
}
POPGYM = [env_id for env_id in CARTPOLE if env_id.startswith("popgym-")]
COPIES = 6


def put(single: gym.Env, state: np.ndarray) -> np.ndarray:
    """Starts an episode of Gymnasium's environment in the given state."""
    single.reset()
    single.unwrapped.state = state.copy()
    return state.astype(np.float32)


def actions_for(state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns actions that end episodes in every way: by angle, by position and, where all goes well, by time."""
    position, velocity, angle, turning = state
    balanced = angle + 0.5 * turning + 0.02 * position + 0.05 * velocity > 0
    drifting = angle + 0.5 * turning > 0.05
    return np.stack([rng.integers(2, size=COPIES), balanced, drifting])[np.arange(COPIES) % 3, np.arange(COPIES)]


class Draws:
    """Stands in for POPGym's random generator: returns a first state, or noise, drawn elsewhere."""

    def __init__(self, *numbers):
        self.waiting = list(numbers)

    def normal(self, mean, deviation):
        assert mean == 0
        return self.waiting.pop(0)

    def uniform(self, low, high, size):
        return self.waiting.pop(0)


def begin(single: gym.Env, state: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Begins an episode of POPGym's environment with a state and noise, and returns its first observation."""
    single.np_random = Draws(state.copy(), noise)
    return single.reset()[0]


@pytest.mark.parametrize("env_id", SETTINGS)
def test_the_same_states_and_actions_give_gymnasiums_numbers_exactly(env_id):
    rng = np.random.default_rng(0)
    batched = CARTPOLE[env_id](COPIES)
    singles = [make_env(SETTINGS[env_id]) for _ in range(COPIES)]
    seen, _ = batched.reset(seed=5)
    for copy in range(COPIES):
        first = put(singles[copy], batched._state[:, copy])
        np.testing.assert_array_equal(seen[copy], first[batched._observed])
    ends = {"angle": 0, "position": 0, "time": 0}
    for step in range(2100):
        if step == 7:  # from here on the first copy is out of phase
            seen, _ = batched.reset(options={"reset_mask": np.arange(COPIES) == 0})
            put(singles[0], batched._state[:, 0])
        actions = actions_for(batched._state, rng)
        seen, rewards, terminated, truncated, info = batched.step(actions)
        assert (seen.dtype, rewards.dtype, terminated.dtype, truncated.dtype) == ("f4", "f8", "?", "?")
        for copy in range(COPIES):
            observation, reward, *ended, _ = singles[copy].step(actions[copy])
            assert rewards[copy] == reward and [terminated[copy], truncated[copy]] == ended, (step, copy)
            last = info["final_obs"] if any(ended) else seen
            np.testing.assert_array_equal(last[copy], observation)
            if any(ended):
                assert info["_final_obs"][copy]
                theta = singles[copy].unwrapped.state[2]
                ends["time" if truncated[copy] else "angle" if abs(theta) > 0.2095 else "position"] += 1
                first = put(singles[copy], batched._state[:, copy])
                np.testing.assert_array_equal(seen[copy], first[batched._observed])
            else:
                np.testing.assert_array_equal(singles[copy].unwrapped.state, batched._state[:, copy])
    assert ends["angle"] > 100 and ends["position"] >= 10 and ends["time"] >= 8


@pytest.mark.parametrize("env_id", POPGYM)
def test_the_same_states_actions_and_noise_give_popgyms_numbers(env_id):
    rng = np.random.default_rng(0)
    batched = CARTPOLE[env_id](COPIES)
    singles = [gym.make(env_id, disable_env_checker=True).unwrapped for _ in range(COPIES)]
    deviation, drawn = getattr(singles[0], "noise_sigma", [0])[0], []
    look = batched._observe

    def watched_look(state, shown):
        seen = look(state, shown)
        drawn.append(seen - state[shown].T.astype(np.float32))
        return seen

    batched._observe = watched_look
    seen, _ = batched.reset(seed=3)
    for copy, single in enumerate(singles):
        first = begin(single, batched._state[:, copy], drawn[0][copy])
        np.testing.assert_allclose(seen[copy], first, atol=1e-6)
    limit, ends, unclipped = singles[0].max_episode_length, {"fell": 0, "time": 0}, []
    for _ in range(2 * limit + 50):
        drawn.clear()
        actions = actions_for(batched._state, rng)
        seen, rewards, terminated, truncated, info = batched.step(actions)
        unclipped.append(drawn[0])
        first_noise = iter(drawn[-1])
        for copy, single in enumerate(singles):
            single.np_random = Draws(drawn[0][copy])
            observation, reward, *ended, _ = single.step(actions[copy])
            assert rewards[copy] == pytest.approx(reward)
            assert [terminated[copy], truncated[copy]] == ended
            last = info["final_obs"] if any(ended) else seen
            np.testing.assert_allclose(last[copy], observation, atol=1e-6)
            if any(ended):
                ends["fell" if terminated[copy] else "time"] += 1
                first = begin(single, batched._state[:, copy], next(first_noise))
                np.testing.assert_allclose(seen[copy], first, atol=1e-6)
    assert ends["fell"] > 20 and ends["time"] >= 2
    measured = np.concatenate(unclipped)[:, 0].std()  # the position, whose bounds are far
    assert measured == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("env_id", POPGYM)
def test_spaces_are_popgyms_and_noisy_observations_lie_in_them(env_id):
    batched, single = CARTPOLE[env_id](2000), gym.make(env_id, disable_env_checker=True)
    assert batched.single_observation_space == single.observation_space
    assert batched.single_action_space == single.action_space
    first, _ = batched.reset(seed=0)
    assert first in batched.observation_space
    deviation = getattr(single.unwrapped, "noise_sigma", [0])[0]
    assert first[:, 0].std() == pytest.approx(np.hypot(deviation, 0.1 / np.sqrt(12)), rel=0.05)  # noise from the start
    np.testing.assert_array_equal(first.min(axis=0) < -0.06, [deviation > 0] * 2)


@pytest.mark.parametrize("env_id", SETTINGS)
def test_spaces_are_gymnasiums_and_observations_lie_in_them(env_id):
    batched, single = CARTPOLE[env_id](3), make_env(SETTINGS[env_id])
    assert batched.single_observation_space == single.observation_space
    assert batched.single_action_space == single.action_space
    seen, info = batched.reset(seed=0)
    assert seen in batched.observation_space and info == {}
    assert batched.step(batched.action_space.sample())[0] in batched.observation_space


def test_a_seed_determines_the_episodes_and_sub_environments_differ():
    plays = []
    for seed in (1, 1, 2):
        batched = CARTPOLE["CartPole-v1"](4)
        first, _ = batched.reset(seed=seed)
        plays.append(np.stack([first, *(batched.step(np.full(4, step % 3 > 0))[0] for step in range(60))]))
    first, second, other = plays
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert len(np.unique(first[0, :, 0])) == 4


def test_first_states_lie_within_gymnasiums_bounds_or_those_of_the_options():
    batched = CARTPOLE["CartPole-v1"](2000)
    seen, _ = batched.reset(seed=0)
    assert np.abs(seen).max() <= 0.05 and (seen.min(axis=0) < -0.049).all() and (seen.max(axis=0) > 0.049).all()
    seen, _ = batched.reset(options={"low": 0.1, "high": 0.11})
    assert seen.min() >= np.float32(0.1) and seen.max() <= np.float32(0.11)
    while True:  # a copy that restarts by itself begins as Gymnasium's does without options
        seen, _, terminated, *_ = batched.step(np.ones(2000, dtype=np.int64))
        if terminated.any():
            assert np.abs(seen[terminated]).max() <= 0.05
            break


def test_returned_arrays_are_not_overwritten():
    batched = CARTPOLE["CartPole-v1"](2)
    first, _ = batched.reset(seed=0)
    kept = first.copy()
    second = batched.step(np.array([0, 1]))[0]
    assert not np.shares_memory(first, second)
    batched.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(first, kept)


def test_invalid_actions_are_refused():
    batched = CARTPOLE["CartPole-v1"](2)
    batched.reset(seed=0)
    for actions in ([0, 2], [-1, 0], [0.0, 1.0], [0], 1):
        with pytest.raises(InputError, match=r"actions = .*must be 2 integers from 0 to 1"):
            batched.step(np.array(actions))


def test_masked_observations_can_include_the_previous_step():
    settings = EnvSettings("CartPole-v1", mask_velocity=True, previous_action=True, vectorization="native")
    venv = make_vec_env(settings, 2, seed=0)
    venv.reset()
    seen, *_ = venv.step(np.array([0, 1]))
    assert seen["observation"].shape == (2, 2) and seen["previous_action"].tolist() == [[1, 0], [0, 1]]
