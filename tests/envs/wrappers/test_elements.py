"""Conversion of values to their space, and errors for values outside it."""

import numpy as np
import pytest
from gymnasium import spaces

from ntm_rl.envs.wrappers.elements import MismatchError, conform

BOX = spaces.Box(-1, 1, (3,))
BYTES = spaces.Box(0, 255, (2,), np.uint8)
PAIR = spaces.Dict(a=spaces.Box(0, 1, (2, 2)), b=spaces.Discrete(3, start=1))


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (BOX, [0.5, 0, -1], np.array([0.5, 0, -1], np.float32)),
        (BOX, np.zeros((3, 1)), np.zeros(3, np.float32)),
        (BOX, np.array([1, 0, 1]), np.array([1, 0, 1], np.float32)),
        (BOX, np.array([1.000001, 0, 0]), np.array([1.000001, 0, 0], np.float32)),
        (spaces.Box(0, 1, (1,)), 0.25, np.array([0.25], np.float32)),
        (spaces.Box(0, 1, ()), np.float64(0.25), np.array(0.25, np.float32)),
        (BYTES, [1, 255], np.array([1, 255], np.uint8)),
        (spaces.Discrete(3), np.array([2]), np.int64(2)),
        (spaces.Discrete(3), True, np.int64(1)),
        (spaces.MultiDiscrete([2, 3]), (1, 2), np.array([1, 2])),
        (spaces.MultiBinary(2), [1, 0], np.array([1, 0], np.int8)),
        (spaces.Tuple([spaces.Discrete(2), BOX]), [1, [0, 0, 0]], (1, np.zeros(3, np.float32))),
    ],
)
def test_a_value_is_converted_to_the_shape_and_type_of_its_space(space, value, expected):
    found = conform(space, value, bounds=True)
    pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
    for ours, wanted in pairs:
        np.testing.assert_array_equal(ours, wanted)
        assert np.asarray(ours).dtype == np.asarray(wanted).dtype and np.shape(ours) == np.shape(wanted)
    assert space.contains(found) or space is BOX  # whose bound the rounding passes


def test_an_array_that_fits_is_not_copied():
    array = np.zeros(3, np.float32)
    assert conform(BOX, array, bounds=True) is array


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (BOX, None, "observation is None"),
        (BOX, "abc", "'abc', which is not numeric"),
        (BOX, [[1, 2], [3]], "a list of 2, no array"),
        (BOX, np.zeros(4), r"has shape \(4,\), its space .* has \(3,\)"),
        (spaces.Box(0, 1, (2, 3)), np.zeros((3, 2)), r"has shape \(3, 2\)"),
        (BOX, np.array([0, 0, 1.5]), r"observation\[2\] = 1.5 is above its bound 1.0"),
        (BOX, np.array([0, np.nan, 0]), r"observation\[1\] = nan is not a number"),
        (spaces.Box(0, 1, ()), -2.0, "observation = -2.0 is below its bound 0.0"),
        (BYTES, np.zeros(2), "float64 would be cut to uint8"),
        (spaces.Discrete(3), 3, r"observation = 3 is not in Discrete\(3\)"),
        (spaces.Discrete(3), 1.0, "takes a single integer"),
        (spaces.Discrete(3), np.array([1, 2]), "takes a single integer"),
        (spaces.MultiDiscrete([2, 3]), np.array([0, 3]), r"observation\[1\] = 3 is not in 0 to 2"),
        (spaces.MultiDiscrete([2, 3]), np.zeros(2), "takes integers"),
        (PAIR, np.zeros(2), "its space is a Dict of"),
        (PAIR, {"a": np.zeros((2, 2))}, "observation has no 'b'"),
        (PAIR, {"a": np.zeros((2, 2)), "b": 1, "c": 0}, "observation has the unknown key 'c'"),
        (PAIR, {"a": np.array([[0, 0], [7, 0]]), "b": 1}, r"observation\['a'\]\[1, 0\] = 7 is above"),
        (PAIR, {"a": np.zeros((2, 2)), "b": 0}, r"observation\['b'\] = 0 is not in"),
        (spaces.Tuple([BOX]), (), "a tuple of 0, its space a Tuple of 1"),
        (spaces.Text(3), 5, "observation 5 is not in Text"),
    ],
)
def test_a_value_outside_its_space_is_reported_with_its_index(space, value, message):
    with pytest.raises(MismatchError, match=message):
        conform(space, value, bounds=True)


def test_without_bounds_only_fatal_mismatches_are_refused():
    outside = np.array([0, 0, 9], np.float32)
    assert conform(BOX, outside) is outside
    assert conform(PAIR, {"a": np.zeros((2, 2)), "b": 1, "c": 0}).keys() == {"a", "b"}
    with pytest.raises(MismatchError, match=r"observation\[1\] = 256"):
        conform(BYTES, [0, 256])  # it would become 0
