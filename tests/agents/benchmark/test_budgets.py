"""Budgets of the suites' tasks."""

import pytest

from ntm_rl.agents.benchmark.budgets import budget, task_settings
from ntm_rl.agents.benchmark.cells import plan
from ntm_rl.agents.benchmark.suites import choose_tasks, find_suite
from ntm_rl.agents.settings.loading import load_settings


def steps(suite: str, *names: str) -> list[int]:
    return [task_settings(task).total_timesteps for task in choose_tasks(find_suite(suite), names)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, 500_000), (100, 500_000), (101, 505_000), (400, 2_000_000), (401, 2_000_000), (None, 2_000_000)],
)
def test_a_budget_is_5000_episodes_within_bounds(limit, expected):
    assert budget(limit) == expected


def test_tasks_with_the_package_defaults_follow_the_rule():
    names = ("RepeatFirstEasy", "MemoryChain-40", "PassiveTMaze-100", "MemoryS7", "EndlessTMaze-uniform-5-5")
    limits = [51, 41, 101, 5 * 7**2, 6 * (5 + 1) * 5]  # by hand
    assert steps("general-dev", *names) == [max(500_000, 5_000 * limit) for limit in limits]
    assert steps("general-test", "MultiarmedBanditHard", "Pong") == [2_000_000, 1_000_000]


def test_tasks_with_a_config_of_their_own_keep_its_budget():
    assert steps("tmaze", "length-20", "length-500") == [600_000, 4_000_000]
    expected = load_settings("popgym/repeat_previous_easy").total_timesteps
    assert steps("popgym-small", "RepeatFirstEasy") == [expected]


@pytest.mark.parametrize("overrides", [{"timesteps": 8192}, {"overrides": ["total_timesteps=8192"]}])
def test_a_grid_can_have_another_budget(overrides, tmp_path):
    for task in ("RepeatFirstMedium", "Pong"):
        (cell,) = plan("general-test", ["lstm"], 1, tasks=[task], **overrides)
        assert cell.settings(tmp_path).total_timesteps == 8192
    (cell,) = plan("general-test", ["lstm"], 1, tasks=["RepeatFirstMedium"])
    assert cell.settings(tmp_path).total_timesteps == 2_000_000
