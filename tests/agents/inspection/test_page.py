"""The parts of the page that need no browser: colours, arrays, images and names."""

import base64
import io
import json
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from episodes import memory_of, small_episode
from ntm_rl.agents.inspection.naming import action_names, labels_of, observation_parts
from ntm_rl.agents.inspection.notes import print_once
from ntm_rl.agents.inspection.page.arrays import ArrayPacker
from ntm_rl.agents.inspection.page.build import Source, build_page
from ntm_rl.agents.inspection.page.colours import LEVELS, TO_LAB, TO_LMS, table
from ntm_rl.agents.inspection.page.images import MAX_SIDE, encode_frames
from ntm_rl.agents.inspection.page.tracks import TrackBuilder
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.making import make_vec_env


def lightness(colours: np.ndarray) -> np.ndarray:
    """The lightness of sRGB colours `[..., 3]` in OKLab."""
    encoded = colours / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ TO_LMS.T) @ TO_LAB[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lightness_grows_evenly_with_the_numbers(theme):
    steps = np.diff(lightness(table("sequential", theme)))
    assert (np.sign(steps) == (1 if theme == "dark" else -1)).mean() > 0.95
    assert np.abs(np.diff(lightness(table("sequential", theme))[::16]) - 16 * steps.mean()).max() < 0.01


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_diverging_table_is_neutral_in_the_middle_and_as_light_on_both_sides(theme):
    colours = table("diverging", theme)
    middle = LEVELS // 2
    assert colours.shape == (LEVELS, 3) and np.ptp(colours[middle].astype(int)) < 12
    assert (colours[middle] == table("sequential", theme)[0]).all()
    sides = lightness(colours)
    assert np.abs(np.diff(sides[:middle:16])).min() > 0.005 and np.abs(np.diff(sides[middle::16])).min() > 0.005
    assert (colours[0, 2] > colours[0, 0]) and (colours[-1, 0] > colours[-1, 2])  # blue, orange


@pytest.mark.parametrize(("power", "error"), [(1, 1 / 254 / 2), (2, 1 / 254)])
def test_levels_are_near_the_numbers(power, error):
    numbers = np.random.default_rng(0).uniform(size=(7, 3, 2)).astype(np.float32)
    packer = ArrayPacker()
    described = packer.add_heat(numbers, "sequential", limits=(0, 1), power=power)
    differences = np.frombuffer(packer._blocks[0], np.uint8, numbers.size).reshape(numbers.shape)
    levels = differences.cumsum(axis=0, dtype=np.uint8)
    assert np.abs((levels / 254) ** power - numbers).max() <= error + 1e-6
    assert described["shape"] == [7, 3, 2] and described["start"] == 0


@pytest.mark.parametrize(
    ("numbers", "scale", "limits"),
    [
        ([[0, 0]], "sequential", (0, 1)),
        ([[0, 0]], "diverging", (-1, 1)),
        ([[2, 5]], "sequential", (2, 5)),
        ([[-2, 5]], "diverging", (-5, 5)),
        ([[np.nan, np.inf]], "diverging", (-1, 1)),
        ([[]], "sequential", (0, 1)),
    ],
)
def test_limits_of_numbers(numbers, scale, limits):
    described = ArrayPacker().add_heat(np.array(numbers, dtype=np.float32), scale)
    assert (described["low"], described["high"]) == limits


@pytest.mark.parametrize("core", ["mann", "dnc", "sam"])
def test_no_number_of_a_slot_is_cut_off(core):
    trace = memory_of(core, 40, slots=6, width=3, hidden_size=5)
    found = TrackBuilder(ArrayPacker()).memory(trace)
    tracks = {track["name"]: track["values"] for track in found["tracks"] if track["group"] == "slots"}
    assert list(tracks) == list(trace.slots)
    for name, numbers in trace.slots.items():
        assert tracks[name]["low"] <= numbers.min() and tracks[name]["high"] >= numbers.max()


def test_equal_frames_are_stored_once_and_large_ones_reduced():
    rng = np.random.default_rng(0)
    frame, other = rng.integers(0, 256, size=(2, 700, 900, 3), dtype=np.uint8)
    encoded = encode_frames([frame, other, frame])
    assert encoded["index"] == [0, 1, 0] and len(encoded["images"]) == 2
    images = [
        Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/webp;base64,"))))
        for url in encoded["images"]
    ]
    assert max(images[0].size) == MAX_SIDE
    assert encode_frames([]) is None


def test_frames_fit_their_budget():
    frames = list(np.random.default_rng(0).integers(0, 256, size=(30, 200, 200, 3), dtype=np.uint8))
    assert sum(map(len, encode_frames(frames, 60_000)["images"])) < 4 / 3 * 60_000 + 30 * 40


def test_a_small_picture_is_stored_without_loss():
    frame = np.random.default_rng(0).integers(0, 2, size=(20, 30, 3), dtype=np.uint8) * np.uint8(255)
    (url,) = encode_frames([frame])["images"]
    image = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)


def test_nothing_in_the_document_can_end_its_element():
    page = build_page("</script><!--", [Source("<b>&amp;", ["\u2028"], [("{{SCRIPT}}", small_episode(2))])])
    document = re.search(r'id="document">(.*?)</script>', page, re.S)[1]
    assert not set("<>&") & set(document) and document.isascii()
    assert json.loads(document)["title"] == "</script><!--"
    assert page.count("<script") == page.count("</script>") == 3


@pytest.mark.parametrize(
    ("env_id", "observations", "actions"),
    [
        ("ntm_rl/PassiveTMaze-v0", ("corridor", "junction", "goal or height"), ("right", "up", "left", "down")),
        ("ntm_rl/MemoryChain-v0", ("time left", "query", "context 0"), ("-1", "+1")),
        ("popgym-RepeatFirstEasy-v0", ("♠ spades", "♦ diamonds", "♣ clubs", "♥ hearts"), None),
        ("CartPole-v1", ("0", "1", "2", "3"), None),
    ],
)
@pytest.mark.parametrize("vectorization", ["auto", "sync"])
def test_environments_name_their_numbers(env_id, observations, actions, vectorization):
    env = make_vec_env(EnvSettings(env_id, vectorization=vectorization), 1, 0)
    (part,) = observation_parts(env)
    if env_id.startswith("popgym") and vectorization == "sync":  # POPGym's own environment gives no names
        observations = ("0", "1", "2", "3")
    assert part.labels == observations
    if actions is not None:
        assert action_names(env) == actions
    env.close()


class NamedEnv(gym.Env):
    """An environment with attributes to set."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Discrete(2)


def named(space: spaces.Space | None = None, **attributes) -> VecEnv:
    env = NamedEnv()
    if space is not None:
        env.observation_space = space
    for name, value in attributes.items():
        setattr(env, name, value)
    return DummyVecEnv([lambda: env])


@pytest.mark.parametrize("names", [["x", "y", "z"], ("x", "y", "z"), np.array(["x", "y", "z"])])
def test_names_are_sequences_of_strings(names, capsys):
    (part,) = observation_parts(named(observation_names=names))
    assert part.labels == ("x", "y", "z")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["x"], "length 1"),
        (7, "type int"),
        ((1, None, "x"), "type tuple"),
        ("xyz", "type str"),
        (np.eye(3), "type ndarray"),
    ],
)
def test_names_that_do_not_fit_are_noted_once(names, found, capsys):
    print_once.cache_clear()
    for _ in range(2):
        (part,) = observation_parts(named(observation_names=names))
        assert part.labels == ("0", "1", "2")
    start = f"note: observation_names of {found} is ignored: must be 3 strings, as the space is Box(-1.0"
    assert (note := capsys.readouterr().err).startswith(start) and note.count("\n") == 1


@pytest.mark.parametrize("names", [None, ()])
def test_no_names_are_not_noted(names, capsys):
    assert action_names(named(action_names=names)) is None
    assert capsys.readouterr().err == ""


def test_names_that_do_not_fit_leave_the_next_attribute(capsys):
    print_once.cache_clear()
    assert action_names(named(action_names=["left"], action_meanings=["left", "right"])) == ("left", "right")
    assert capsys.readouterr().err.startswith("note: action_names of length 1 is ignored")


def test_names_that_do_not_fit_the_space_are_not_used():
    env = make_vec_env(EnvSettings("CartPole-v1"), 1, 0)
    assert labels_of(env.action_space, ["left"]) == labels_of(env.action_space) == ("0", "1")
    assert labels_of(env.action_space, ["left", "right"]) == ("left", "right")
    env.close()
