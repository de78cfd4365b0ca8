"""Frames of every format as RGB, and environments with every kind of render mode."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ntm_rl.agents.inspection.frames import FrameConverter, FrameError
from ntm_rl.agents.inspection.notes import print_once
from ntm_rl.agents.inspection.rendering import make_rendered_env
from ntm_rl.envs import EnvSettings, make_env, make_vec_env
from ntm_rl.errors import InputError

GREY = np.array([[0, 100], [200, 255]], np.uint8)
COLOURS = np.stack([GREY, GREY, GREY], axis=2)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (COLOURS, COLOURS),
        (GREY, COLOURS),
        (GREY[..., None], COLOURS),
        (np.dstack([COLOURS, GREY]), COLOURS),
        (np.stack([GREY] * 3), COLOURS),  # channels first
        (COLOURS[None], COLOURS),
        (COLOURS.tolist(), COLOURS),
        ([np.zeros_like(COLOURS), COLOURS], COLOURS),  # the newest of a list
        (COLOURS.astype(np.int64) * 2 - 100, np.clip(COLOURS.astype(int) * 2 - 100, 0, 255)),
        (COLOURS / np.float32(255), COLOURS),
        (COLOURS.astype(np.float64), COLOURS),
        (COLOURS > 150, 255 * (COLOURS > 150)),
        (np.array([[0.5, np.nan]] * 2), [[[127] * 3, [0] * 3]] * 2),
    ],
)
def test_frames_of_all_kinds_become_pictures_of_bytes(frame, expected):
    picture = FrameConverter().convert(frame)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    np.testing.assert_allclose(picture, expected, atol=1)  # a float's last byte may be cut off


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "returned None"),
        ([], "returned None"),
        ("a text", "returned a str"),
        ({"image": GREY}, "returned a dict"),
        (7, "returned a int"),
        (np.zeros((0, 4, 3)), r"an array \(0, 4, 3\)"),
        (np.zeros((6, 5, 7)), r"shape \(6, 5, 7\): must be \[height, width\]"),
        (np.zeros((2, 4, 5, 3)), r"shape \(2, 4, 5, 3\)"),
        (np.zeros(9), r"shape \(9,\)"),
        (np.array([["x", "y"]]), "not an image"),
    ],
)
def test_what_is_not_a_picture_is_described(frame, message):
    with pytest.raises(FrameError, match=message):
        FrameConverter().convert(frame)


def test_dark_float_frames_stay_dark_once_floats_went_to_255():
    frames = FrameConverter()
    assert frames.convert(np.full((2, 2), 1.0)).max() == 255
    assert frames.convert(np.full((2, 2), 200.0)).max() == 200
    assert frames.convert(np.full((2, 2), 1.0)).max() == 1


def test_huge_frames_are_subsampled():
    frame = np.broadcast_to(np.uint8(9), (10_000, 30_000, 3))
    assert FrameConverter().convert(frame).nbytes < 2 * 10**7


class Lamp(gym.Env):
    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 10}  # noqa: RUF012
    light = np.full((6, 8, 3), 100, np.uint8)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space, self.action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def render(self):
        assert self.render_mode != "human", "a window opens"
        return self.light if self.render_mode == "rgb_array" else None


class AlwaysDraws(Lamp):
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self):
        super().__init__()

    def render(self):
        return self.light


class Lists(Lamp):
    metadata = {"render_modes": ["rgb_array_list"], "render_fps": "fast"}  # noqa: RUF012

    def render(self):
        return [self.light] if self.render_mode == "rgb_array_list" else None


class NeedsAMode(Lamp):
    def __init__(self, render_mode):
        super().__init__(render_mode)


class Broken(Lamp):
    def render(self):
        raise KeyError("bulb")


class Flickers(Lamp):
    """The first frame is a frame, and the third."""

    calls = 0
    failure = KeyError("bulb")

    def render(self):
        type(self).calls += 1
        if type(self).calls not in (1, 3) and isinstance(self.failure, Exception):
            raise self.failure
        return self.light + self.calls if type(self).calls in (1, 3) else self.failure


class Blind(Lamp):
    metadata = {"render_modes": []}  # noqa: RUF012

    def render(self):
        return None


class Unseen(Blind):
    render = gym.Env.render


class FailsToStart(Lamp):
    def __init__(self, render_mode=None):
        raise ValueError("no current")


for kind in (Lamp, AlwaysDraws, Lists, NeedsAMode, Broken, Flickers, Blind, Unseen, FailsToStart):
    gym.register(f"tests/{kind.__name__}-v0", kind)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Lamp", {}),
        ("Lamp", {"render_mode": "rgb_array"}),
        ("Lamp", {"render_mode": "human"}),
        ("Lamp", {"render_mode": None}),
        ("AlwaysDraws", {}),
        ("Lists", {}),
        ("Lists", {"render_mode": "rgb_array_list"}),
        ("NeedsAMode", {"render_mode": "rgb_array"}),
    ],
)
def test_every_environment_that_renders_is_recorded_whatever_its_config_says(name, kwargs, capsys):
    rendered = make_rendered_env(EnvSettings(f"tests/{name}-v0", kwargs), seed=0)
    rendered.env.reset()
    np.testing.assert_array_equal(rendered.render(), Lamp.light)
    assert rendered.fps == (15 if name in ("AlwaysDraws", "Lists") else 10)
    err = capsys.readouterr().err
    assert ("render_mode = 'human' in the run's config: recorded with" in err) == (kwargs.get("render_mode") == "human")
    assert ("metadata['render_fps'] = 'fast'" in err) == (name == "Lists")
    rendered.env.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Blind", r"does not render \(with render_mode = 'rgb_array': render\(\) returned None\)"),
        (
            "Broken",
            r"does not render \(with .*: render raised .*test_rendering.py, line \d+, in render: KeyError: 'bulb'\)",
        ),
        ("Unseen", r"has no render\(\)"),
    ],
)
def test_an_environment_that_does_not_render_is_made_and_the_reason_is_printed(name, reason, capsys):
    print_once.cache_clear()
    for _ in range(2):
        made = make_rendered_env(EnvSettings(f"tests/{name}-v0"), seed=0)
        assert made.render is None and made.env.reset().shape[0] == 1
        made.env.close()
    (note,) = capsys.readouterr().err.splitlines()  # once
    assert re.fullmatch(f"note: tests/{name}-v0 {reason}: the observations are shown", note)


@pytest.mark.parametrize("failure", [KeyError("bulb"), None, "a text"])
def test_a_frame_that_fails_late_is_the_previous_one_with_one_note(failure, monkeypatch, capsys):
    monkeypatch.setattr(Flickers, "failure", failure)
    monkeypatch.setattr(Flickers, "calls", 0)
    print_once.cache_clear()
    rendered = make_rendered_env(EnvSettings("tests/Flickers-v0"), seed=0)
    rendered.env.reset()
    assert [int(rendered.render()[0, 0, 0]) for _ in range(4)] == [101, 103, 103, 103]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and note.endswith(": the previous frame is shown where render() fails")
    assert note.count("env.id") <= 1
    rendered.env.close()


def test_an_environment_that_cannot_be_made_has_its_usual_error():
    with pytest.raises(InputError, match="no current") as caught:
        make_rendered_env(EnvSettings("tests/FailsToStart-v0"), seed=0)
    assert "render_mode" not in str(caught.value)


def test_the_programs_render_mode_wins_over_the_configs():
    env = make_env(EnvSettings("tests/Lamp-v0", {"render_mode": "human"}), render_mode="rgb_array")
    assert env.render_mode == "rgb_array"


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
@pytest.mark.parametrize("env_id", ["tests/Lamp-v0", "CartPole-v1"])
def test_a_time_limit_among_the_keyword_arguments_is_the_time_limit(env_id, vectorization):
    settings = EnvSettings(env_id, {"max_episode_steps": 3}, vectorization=vectorization)
    env = make_vec_env(settings, 1, 0)
    env.reset()
    assert [bool(env.step(np.zeros(1, dtype=np.int64))[2][0]) for _ in range(3)] == [False, False, True]


def test_of_two_time_limits_the_environments_key_wins_and_says_so():
    settings = EnvSettings("tests/Lamp-v0", {"max_episode_steps": 3}, max_episode_steps=2)
    with pytest.warns(UserWarning, match=r"env.kwargs.max_episode_steps = 3: env.max_episode_steps = 2 is used"):
        env = make_env(settings)
    env.reset()
    assert [env.step(0)[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize("limit", [0, -1, "many", 2.5])
def test_a_time_limit_among_the_keyword_arguments_must_be_a_number_of_steps(limit):
    with pytest.raises(InputError, match=r"max_episode_steps = .*must be at least 1"):
        make_env(EnvSettings("tests/Lamp-v0", {"max_episode_steps": limit}))
