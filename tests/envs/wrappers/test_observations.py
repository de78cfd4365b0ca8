"""Conversion of observations that policies do not support."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import VectorizeTransformObservation
from minigrid.core.mission import MissionSpace
from minigrid.wrappers import (
    FullyObsWrapper,
    RGBImgObsWrapper,
    RGBImgPartialObsWrapper,
    SymbolicObsWrapper,
    ViewSizeWrapper,
)

from ntm_rl.envs import EnvSettings, make_env
from ntm_rl.envs.wrappers.missions import MissionWords, tokens
from ntm_rl.envs.wrappers.observations import GridFeatures, ReadableParts, changes_of, make_readable, row
from ntm_rl.errors import InputError


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


def test_a_tuple_of_numbers_with_any_start_is_shifted_to_0():
    env = make_readable(Shows(spaces.Tuple((THREE_FROM_1, spaces.Discrete(2, start=-4))), (3, -4)))
    assert env.observation_space == spaces.MultiDiscrete([3, 2])
    np.testing.assert_array_equal(env.reset()[0], [2, 0])


THREE_FROM_1 = spaces.Discrete(3, start=1)


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (THREE_FROM_1, 2, [0, 1, 0]),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), np.array([[0, 1], [1, 0]]), [1, 0, 0, 1, 0, 1, 1, 0]),
        (spaces.MultiDiscrete([2, 2], start=[0, 5]), np.array([1, 5]), [0, 1, 1, 0]),
        (spaces.MultiBinary((2, 2)), np.array([[0, 1], [1, 1]], dtype=np.int8), [0, 1, 1, 1]),
    ],
    ids=str,
)
def test_unsupported_discrete_spaces_become_a_flat_box(space, observation, expected):
    env = make_readable(Shows(space, observation))
    seen, _ = env.reset()
    assert isinstance(env.observation_space, spaces.Box)
    assert seen.tolist() == expected


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 255, (3, 8, 8), np.uint8)}),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Text(3)})}),
        spaces.Text(3),  # neither readable nor made so: the factory refuses it
    ],
    ids=str,
)
def test_supported_and_unconvertible_spaces_stay_unchanged(space):
    env = Shows(space, None)
    assert make_readable(env) is env


NUMBERS = np.array([4.0, 5.0], dtype=np.float32)
PAIR = spaces.Box(0, 9, (2,))
PICTURE = np.arange(9 * 10 * 3, dtype=np.uint8).reshape(9, 10, 3)


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (spaces.Tuple((PAIR, spaces.Discrete(2))), (NUMBERS, 1), {"0": NUMBERS, "1": 1}),
        (
            spaces.Dict({"a": spaces.Dict({"b": THREE_FROM_1, "": PAIR}), "c": PAIR}),
            {"a": {"b": 3, "": NUMBERS}, "c": NUMBERS},
            {"a/b": [0, 0, 1], "a/": NUMBERS, "c": NUMBERS},
        ),
        (
            spaces.Dict({"eyes": spaces.Tuple([spaces.Box(0, 255, (9, 10, 3), np.uint8)] * 2), "n": THREE_FROM_1}),
            {"eyes": (PICTURE, 2 * PICTURE), "n": 1},
            {"eyes/0": PICTURE.transpose(2, 0, 1), "eyes/1": 2 * PICTURE.transpose(2, 0, 1), "n": [1, 0, 0]},
        ),
    ],
    ids=["tuple", "dict", "images"],
)
def test_nested_parts_become_one_dict_whose_images_stay_images(space, observation, expected):
    env = make_readable(Shows(space, observation))
    seen, _ = env.reset()
    assert set(seen) == set(expected) and env.observation_space.contains(seen)
    for key, value in expected.items():
        np.testing.assert_array_equal(seen[key], value)


def test_parts_with_the_same_joined_key_are_refused():
    space = spaces.Dict({"a/b": PAIR, "a": spaces.Dict({"b": PAIR})})
    with pytest.raises(InputError, match=r"observation 'a/b': two parts of .* have this joined key; rename"):
        make_readable(Shows(space, None))


class Rooms(gym.Env):
    """Has a MiniGrid's observations, with the mission that it is told."""

    action_space = spaces.Discrete(2)

    def __init__(self, mission_space, size=3, view=3):
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.agent_view_size = view
        self.observation_space = spaces.Dict(image=image, direction=spaces.Discrete(4), mission=mission_space)
        self.mission = mission_space.sample()

    def reset(self, *, seed=None, options=None):
        space = self.observation_space
        return {"image": np.zeros(space["image"].shape, np.uint8), "direction": 0, "mission": self.mission}, {}


FETCH = MissionSpace(lambda what, where: f"get {what} {where}.", [["it", "a red key"], ["here", "there"]])


def test_words_of_a_changing_mission_are_added_to_the_grid_features():
    rooms = Rooms(FETCH)
    env = make_readable(rooms)
    assert changes_of(env)[1] == "mission: read as 8 words, one-hot out of 16"
    seen = []
    for mission in ("get it here.", "get a red key here.", "get it there.", "get there it.", "get IT here."):
        rooms.mission = mission
        seen.append(env.reset()[0])
        assert env.observation_space.contains(seen[-1])
    assert len(np.unique(seen, axis=0)) == 5
    words = seen[0][9 * 21 + 4 :].reshape(8, 16)  # get, it, here, . and then nothing
    assert words[:4].argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert words[:4].sum() == words.sum() == 4


@pytest.mark.parametrize(("mission", "size"), [("auto", 193), ("none", 193), ("words", 193 + 32 * 64)])
def test_a_constant_mission_is_dropped_unless_requested(mission, size):
    env = make_readable(Rooms(MissionSpace(lambda: "escape")), mission)
    assert env.observation_space.shape == (size,) == env.reset()[0].shape


def test_a_mission_that_changes_despite_its_space_warns_once():
    rooms = Rooms(MissionSpace(lambda: "escape"))
    env = make_readable(rooms)
    env.reset()
    rooms.mission = "stay"
    with pytest.warns(UserWarning, match=r"the mission changes \('escape', 'stay'\).*use env.mission=words"):
        env.reset()
    rooms.mission = "sleep"
    env.reset()


def test_missions_that_differ_beyond_the_last_place_stay_distinct():
    words = MissionWords(MissionSpace(lambda: "escape"))
    long = "very " * 40
    assert not np.array_equal(words.encode(long + "late"), words.encode(long + "soon"))


@pytest.mark.parametrize("env_id", ["BabyAI-GoToObj-v0", "BabyAI-BossLevel-v0", "MiniGrid-PutNear-6x6-N2-v0"])
def test_missions_of_minigrid_and_babyai_are_made_of_known_words(env_id, capsys):
    env = gym.make(env_id)
    words = MissionWords(env.observation_space["mission"])
    missions = {env.reset(seed=seed)[0]["mission"] for seed in range(10)}
    assert words.changes and len(missions) > 1
    for mission in missions:
        features = words.encode(mission).reshape(words.places, words.words)
        assert features[:, len(words.vocabulary) :].sum() == 0  # no word is told by its hash
        named = list(words.vocabulary)
        assert [named[place.argmax()] for place in features if place.any()] == tokens(mission)


def test_a_grid_of_pixels_stays_an_image_beside_the_words_of_the_mission():
    env = make_readable(Rooms(FETCH, size=24))
    assert isinstance(env, ReadableParts)
    assert env.observation_space == spaces.Dict(
        image=spaces.Box(0, 255, (3, 24, 24), np.uint8),
        direction=spaces.Discrete(4),
        mission=spaces.Box(0, 1, (8 * 16,), np.float32),
    )
    assert env.observation_space.contains(env.reset()[0])


@pytest.mark.parametrize(
    ("wrap", "is_symbolic"),
    [
        (lambda env: ViewSizeWrapper(env, 3), True),
        (lambda env: ViewSizeWrapper(env, 9), True),
        (FullyObsWrapper, True),
        (RGBImgPartialObsWrapper, False),
        (RGBImgObsWrapper, False),
        (SymbolicObsWrapper, False),
    ],
    ids=["ViewSize 3", "ViewSize 9", "FullyObs", "RGBImgPartialObs", "RGBImgObs", "SymbolicObs"],
)
def test_minigrids_symbols_are_distinguished_from_pixels_and_coordinates(wrap, is_symbolic):
    env = make_readable(wrap(gym.make("MiniGrid-GoToDoor-5x5-v0")))
    assert isinstance(env, GridFeatures) is is_symbolic
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    if is_symbolic:
        raw = env.env.observation(env.unwrapped.gen_obs())
        assert seen.sum() == raw["image"].size + 1 + len(tokens(raw["mission"]))  # each number is one feature


def test_a_row_of_batched_observations_is_a_copy():
    batch = {"a": np.arange(4.0).reshape(2, 2), "b": (np.array([5, 6]),)}
    taken = row(batch, 1)
    batch["a"][:] = batch["b"][0][:] = 0
    assert taken["a"].tolist() == [2, 3] and taken["b"] == (6,)
    assert row(np.array([None, 3], dtype=object), 1) == 3
