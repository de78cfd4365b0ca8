"""Image observations in all layouts, and arrays that only look like images."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.wrappers.images import ImageReader, is_image, looks_like_image

RNG = np.random.default_rng(0)


def byte(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def floats(low, high, *shape):
    return spaces.Box(low, high, shape, np.float32)


@pytest.mark.parametrize(
    ("space", "expected", "reference"),
    [
        (byte(40, 30), byte(1, 40, 30), lambda x: x[None]),
        (byte(40, 30, 3), byte(3, 40, 30), lambda x: np.moveaxis(x, -1, 0)),
        (byte(3, 40, 30), byte(3, 40, 30), lambda x: x),
        (byte(4, 40, 30, 3), byte(12, 40, 30), lambda x: np.concatenate([np.moveaxis(each, -1, 0) for each in x])),
        (byte(4, 1, 40, 30), byte(4, 40, 30), lambda x: x[:, 0]),
        (floats(0, 1, 40, 30, 1), floats(0, 1, 1, 40, 30), lambda x: np.moveaxis(x, -1, 0)),
        (floats(0, 1, 8, 1, 40, 30), floats(0, 1, 8, 40, 30), lambda x: x[:, 0]),
        (floats(0, 1, 3, 40, 30), floats(0, 1, 3, 40, 30), lambda x: x),
        (floats(0, 255, 40, 30, 3), floats(0, 1, 3, 40, 30), lambda x: np.moveaxis(x, -1, 0) / 255),
        (floats(-1, 1, 40, 30, 3), floats(0, 1, 3, 40, 30), lambda x: (np.moveaxis(x, -1, 0) + 1) / 2),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_images_come_channels_first_as_bytes_or_from_0_to_1(space, expected, reference):
    reader = ImageReader(space)
    assert reader.space == expected and is_image(reader.space)
    image = RNG.uniform(space.low, space.high).astype(space.dtype)
    read = reader.read(image)
    assert read.dtype == expected.dtype and reader.space.contains(read)
    np.testing.assert_allclose(read, reference(image), atol=1e-6)


@pytest.mark.parametrize(
    "space",
    [
        byte(40),
        byte(7, 9),
        spaces.Box(0, 10, (40, 40), np.uint8),
        floats(0, 1, 40, 40),
        floats(0, 1, 3, 3, 3),
        floats(0, 1, 40, 40, 33),
        byte(8, 16, 16, 3),  # SB3 would take the 24 channels for a height
        floats(-np.inf, np.inf, 40, 40, 3),
        spaces.Box(0, 255, (40, 40, 3), np.int32),
        spaces.Discrete(3),
    ],
    ids=str,
)
def test_arrays_that_are_not_images_stay_unchanged(space):
    assert not ImageReader.fits(space) and not is_image(space)


@pytest.mark.parametrize(
    ("space", "looks_like"),
    [
        (floats(0, 1, 40, 40), True),
        (floats(-np.inf, np.inf, 40, 40, 3), True),
        (spaces.Box(0, 10, (40, 40, 3), np.uint8), True),
        (spaces.Box(0, 10, (19, 19), np.uint8), False),  # a board
        (spaces.Box(0, 10, (9, 9, 3), np.uint8), False),
        (floats(-10, 10, 3, 40, 40), True),
        (byte(3, 40, 40), False),  # is one
        (floats(-np.inf, np.inf, 40, 40), False),
        (floats(0, 1, 4), False),
        (floats(0, 1, 6, 5), False),
    ],
    ids=str,
)
def test_lookalikes_are_distinguished_from_images(space, looks_like):
    assert looks_like_image(space) is looks_like


class Camera(gym.Env):
    """Shows random numbers of any space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


gym.register("Camera-v0", entry_point=Camera)


def normalized(space):
    venv = make_vec_env(EnvSettings("Camera-v0", {"space": space}, normalize_observation=True), 2, 0)
    venv.reset()
    return venv, venv.step(np.zeros(2, dtype=np.int64))[0]


def test_normalisation_leaves_an_image_as_bytes():
    venv, seen = normalized(byte(40, 40, 3))
    assert seen.dtype == np.uint8 and seen.max() > 250 and not venv.norm_obs


def test_normalisation_applies_to_vectors_but_not_to_images():
    space = spaces.Dict(view=byte(40, 40), speed=floats(0, 1e6, 50), gear=spaces.Discrete(5))
    venv, seen = normalized(space)
    assert venv.norm_obs_keys == ["speed"] and abs(seen["speed"]).max() <= 10
    assert seen["view"].dtype == np.uint8 and seen["view"].shape == (2, 1, 40, 40)
    assert seen["gear"].dtype == np.int64
