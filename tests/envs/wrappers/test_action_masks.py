"""The format of action masks: checks and random actions."""

import numpy as np
import pytest
from gymnasium import spaces

from masked_envs import SPACES, one_hot, random_masks
from ntm_rl.envs.wrappers.action_masks import MaskFormat
from ntm_rl.errors import InputError


def name(index: int) -> str:
    return f"environment {index}"


@pytest.mark.parametrize(
    ("space", "size"),
    [(spaces.Discrete(4), 4), (spaces.MultiDiscrete([2, 3]), 5), (spaces.MultiBinary(3), 6), (spaces.Discrete(1), 1)],
    ids=str,
)
def test_a_mask_has_a_value_for_each_choice(space, size):
    masks = MaskFormat(space)
    assert masks.size == size
    checked = masks.check([[1] * size, [True] * size], name)
    assert checked.dtype == bool and checked.shape == (2, size) and checked.all()


@pytest.mark.parametrize("mask", [np.int8([1, 0, 0, 1, 1]), [1.0, 0, 0, 1, 1], np.array([[1, 0, 0, 1, 1]], bool)])
def test_bools_and_the_numbers_0_and_1_are_valid(mask):
    checked = MaskFormat(spaces.MultiDiscrete([2, 3])).check([mask, mask], name)
    assert checked.tolist() == [[True, False, False, True, True]] * 2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([True, True], r"environment 1: action mask of 2 values of bool; must be one flat array of 5 bools"),
        ([2, 1, 1, 1, 1], r"environment 1: action mask of 5 values of int64, not only 0 and 1; must"),
        ([0.5, 1, 1, 1, 1], r"environment 1: action mask of 5 values of float64, not only 0 and 1; must"),
        ([float("nan"), 1, 1, 1, 1], r"environment 1: action mask of 5 values of float64, not only 0 and 1"),
        (["1"] * 5, r"environment 1: action mask of 5 values of <U1; must"),
        ([[True, True], [True, True, True]], r"environment 1: action mask of 2 values of object"),
        ({"a": 1}, r"environment 1: action mask of 1 values of object"),
        (True, r"environment 1: action mask of 1 values of bool"),
        ([0, 0, 1, 1, 1], r"environment 1: the action mask allows no value of component 0 of the action"),
        ([1, 1, 0, 0, 0], r"environment 1: the action mask allows no value of component 1 of the action"),
    ],
    ids=str,
)
def test_an_invalid_mask_is_an_error_that_names_its_environment(bad, message):
    with pytest.raises(InputError, match=message) as raised:
        MaskFormat(spaces.MultiDiscrete([2, 3])).check([[True] * 5, bad, bad], name)
    assert "\n" not in str(raised.value)


def test_a_mask_that_allows_nothing_is_an_error():
    with pytest.raises(InputError, match=r"environment 0: the action mask allows no action"):
        MaskFormat(spaces.Discrete(3)).check(np.zeros((2, 3), bool), name)


def test_box_actions_have_no_masks():
    with pytest.raises(InputError, match=r"action masks for Box.*: must be for Discrete, MultiDiscrete or MultiBinary"):
        MaskFormat(spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize("kind", SPACES)
def test_random_actions_are_uniform_over_the_allowed_ones(kind):
    space, rng = SPACES[kind], np.random.default_rng(0)
    mask = random_masks(space, 1, rng)
    actions = MaskFormat(space).sample(np.repeat(mask, 4000, axis=0), rng)
    assert all(action in space for action in actions[:9])
    frequencies = one_hot(space, actions).mean(axis=0)
    assert not frequencies[~mask[0]].any()
    groups = np.split(np.arange(mask.size), MaskFormat(space).starts[1:])
    for group in groups:
        chosen = group[mask[0][group]]
        np.testing.assert_allclose(frequencies[chosen], 1 / len(chosen), atol=0.04)
