"""Infos with other values under the keys that SB3 reserves for statistics."""

import numpy as np
import pytest

from ntm_rl.agents.ppo.episode_infos import valid_infos


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("episode", value) for value in (3, np.int64(3), {"number": 3}, {"r": "x", "l": 1}, "first")),
        *(("is_success", value) for value in ("maybe", np.array([True]))),
    ],
    ids=str,
)
def test_invalid_statistics_are_ignored_with_a_warning(key, value):
    with pytest.warns(UserWarning, match=rf"info\['{key}'\] .* is ignored: .*use another key"):
        assert valid_infos([{key: value, "mine": 1}, {}]) == [{"mine": 1}, {}]


@pytest.mark.parametrize(
    "info", [{"episode": {"r": np.array(1.0), "l": 2, "t": 0.1}}, {"is_success": np.True_}, {"episode": None}, {"a": 1}]
)
def test_valid_statistics_and_success_are_kept(info):
    assert valid_infos([info]) == [info]
