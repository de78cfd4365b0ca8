"""Observations that policies cannot read, turned into ones that they can."""

import gymnasium as gym
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import VectorizeTransformObservation

from ntm_rl.envs import EnvSettings, make_env
from ntm_rl.envs.observations import GridFeatures, make_readable, row


class Shows(gym.Env):
    """Shows always the same observation."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, observation):
        self.observation_space, self.shown = space, observation

    def reset(self, *, seed=None, options=None):
        return self.shown, {}


def test_a_grid_becomes_one_hot_features_of_cells_and_direction():
    env = make_env(EnvSettings("MiniGrid-MemoryS7-v0", kwargs={"agent_view_size": 3}))
    features, _ = env.reset(seed=1)
    raw = env.env.unwrapped.gen_obs()
    assert features.shape == (9 * 21 + 4,) and features.sum() == 9 * 3 + 1
    for cell, (kind, colour, state) in enumerate(raw["image"].reshape(9, 3)):
        one_hot = features[21 * cell : 21 * (cell + 1)]
        assert one_hot[kind] == one_hot[11 + colour] == one_hot[17 + state] == 1
    assert features[-4 + raw["direction"]] == 1


def test_a_vector_of_grids_becomes_features_by_the_same_wrapper():
    maker = lambda: gym.make("MiniGrid-MemoryS7-v0", agent_view_size=3)  # noqa: E731
    envs = VectorizeTransformObservation(
        SyncVectorEnv([maker] * 2, autoreset_mode=AutoresetMode.DISABLED), GridFeatures
    )
    single = make_env(EnvSettings("MiniGrid-MemoryS7-v0", kwargs={"agent_view_size": 3}))
    features, _ = envs.reset(seed=[4, 5])
    np.testing.assert_array_equal(features[1], single.reset(seed=5)[0])
    np.testing.assert_array_equal(envs.step(np.array([0, 2]))[0][1], single.step(2)[0])


def test_a_tuple_of_numbers_becomes_one_multidiscrete_observation():
    env = make_env(EnvSettings("popgym-AutoencodeEasy-v0"))
    assert env.observation_space == spaces.MultiDiscrete([2, 4])
    observation, _ = env.reset(seed=0)
    assert observation[0] == 1 and env.observation_space.contains(observation)


THREE_FROM_1 = spaces.Discrete(3, start=1)


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (THREE_FROM_1, 2, [0, 1, 0]),
        (spaces.Tuple((THREE_FROM_1, spaces.Discrete(2))), (3, 0), [0, 0, 1, 1, 0]),
        (spaces.Tuple((spaces.Box(0, 9, (2,)), spaces.Discrete(2))), (np.array([4.0, 5.0]), 1), [4, 5, 0, 1]),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), np.array([[0, 1], [1, 0]]), [1, 0, 0, 1, 0, 1, 1, 0]),
        (spaces.MultiDiscrete([2, 2], start=[0, 5]), np.array([1, 5]), [0, 1, 1, 0]),
        (spaces.MultiBinary((2, 2)), np.array([[0, 1], [1, 1]], dtype=np.int8), [0, 1, 1, 1]),
        (
            spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "c": spaces.Box(0, 9, (1,))}),
            {"a": {"b": 1}, "c": np.array([7.0])},
            [0, 1, 7],
        ),
    ],
    ids=str,
)
def test_what_is_not_plain_becomes_one_flat_box(space, observation, expected):
    env = make_readable(Shows(space, observation))
    seen, _ = env.reset()
    assert isinstance(env.observation_space, spaces.Box)
    assert seen.tolist() == expected


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 255, (8, 8, 3), np.uint8)}),
        spaces.Text(3),  # neither readable nor made so: the factory refuses it
    ],
    ids=str,
)
def test_what_is_plain_or_beyond_help_stays(space):
    env = Shows(space, None)
    assert make_readable(env) is env


def test_a_row_of_batched_observations_is_a_copy():
    batch = {"a": np.arange(4.0).reshape(2, 2), "b": (np.array([5, 6]),)}
    taken = row(batch, 1)
    batch["a"][:] = batch["b"][0][:] = 0
    assert taken["a"].tolist() == [2, 3] and taken["b"] == (6,)
    assert row(np.array([None, 3], dtype=object), 1) == 3
