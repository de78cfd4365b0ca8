"""Infos that look like an episode's statistics, and are none."""

import numpy as np
import pytest

from ntm_rl.agents.ppo.episode_infos import with_statistics


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("episode", value) for value in (3, np.int64(3), {"number": 3}, {"r": "x", "l": 1}, "first")),
        *(("is_success", value) for value in ("maybe", np.array([True]))),
    ],
    ids=str,
)
def test_what_sb3_would_take_for_statistics_is_left_out_with_a_warning(key, value):
    with pytest.warns(UserWarning, match=rf"info\['{key}'\] .* is left out of the statistics: .*use another key"):
        assert with_statistics([{key: value, "mine": 1}, {}]) == [{"mine": 1}, {}]


@pytest.mark.parametrize(
    "info", [{"episode": {"r": np.array(1.0), "l": 2, "t": 0.1}}, {"is_success": np.True_}, {"episode": None}, {"a": 1}]
)
def test_statistics_and_success_are_handed_on(info):
    assert with_statistics([info]) == [info]
