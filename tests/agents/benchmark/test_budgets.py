"""Budgets of the suites' tasks."""

import numpy as np
import pytest

from ntm_rl.agents.benchmark.budgets import budget, longest_episode, task_settings
from ntm_rl.agents.benchmark.cells import plan
from ntm_rl.agents.benchmark.suites import choose_tasks, find_suite
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.native import NATIVE, make_native
from ntm_rl.errors import InputError


def steps(suite: str, *names: str) -> list[int]:
    return [task_settings(task).total_timesteps for task in choose_tasks(find_suite(suite), names)]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(1, 150_000), (150, 150_000), (151, 151_000), (250, 250_000), (251, 250_000), (None, 250_000)],
)
def test_a_budget_is_1000_episodes_within_bounds(limit, expected):
    assert budget(limit) == expected


def test_tasks_with_the_package_defaults_follow_the_rule():
    names = ("RepeatFirstEasy", "MemoryChain-40", "PassiveTMaze-100", "MemoryS7", "EndlessTMaze-uniform-5-5")
    limits = [51, 41, 101, 5 * 7**2, 6 * (5 + 1) * 5]  # by hand
    assert steps("general-dev", *names) == [min(max(150_000, 1_000 * limit), 250_000) for limit in limits]
    assert steps("general-test", "MultiarmedBanditHard", "Pong") == [250_000, 250_000]


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
    assert cell.settings(tmp_path).total_timesteps == 250_000


# By hand.
LIMITS = {
    "popgym-RepeatPreviousMedium-v0": ({}, 2 * 52 - 1),
    "popgym-ConcentrationEasy-v0": ({}, 104),
    "popgym-BattleshipHard-v0": ({}, 12 * 12),
    "popgym-MineSweeperEasy-v0": ({}, 4 * 4 - 2),
    "popgym-PositionOnlyPendulumHard-v0": ({}, 100),
    "CartPole-v1": ({}, 500),
    "ntm_rl/CartPoleNoVelocity-v0": ({}, 500),
    "Acrobot-v1": ({}, 500),  # not native: Gymnasium's own limit
    "MiniGrid-MemoryS9-v0": ({"agent_view_size": 3}, 5 * 9**2),
    "ntm_rl/MemoryChain-v0": ({"length": 7}, 8),
    "ntm_rl/PassiveTMaze-v0": ({"length": 7}, 8),
    "ntm_rl/EndlessTMaze-v0": ({"length": 2, "corridors": 4}, 6 * 3 * 4),
    "ntm_rl/ColorCubes-v0": ({"difficulty": "trivial"}, 2 * (5 - 1)),
    "ntm_rl/Copy-v0": ({"max_length": 10}, 21),
}


@pytest.mark.parametrize("env_id", LIMITS)
def test_the_limit_is_that_of_the_rules(env_id):
    kwargs, limit = LIMITS[env_id]
    assert longest_episode(EnvSettings(env_id, kwargs)) == limit


def test_the_limit_of_the_settings_comes_first():
    assert longest_episode(EnvSettings("CartPole-v1", max_episode_steps=30)) == 30
    assert longest_episode(EnvSettings("CartPole-v1", {"max_episode_steps": 20})) == 20


def test_an_environment_without_a_limit_has_none():
    assert longest_episode(EnvSettings("Blackjack-v1")) is None
    with pytest.raises(InputError, match="unknown environment"):
        longest_episode(EnvSettings("CartPoole-v1"))


@pytest.mark.parametrize("env_id", NATIVE)
def test_no_episode_is_longer_than_the_limit(env_id):
    envs, limit = make_native(env_id, 4, {}), longest_episode(EnvSettings(env_id))
    envs.reset(seed=0)
    envs.action_space.seed(0)
    lengths, longest = np.zeros(4, dtype=int), 0
    for _ in range(min(2 * limit, 1000)):
        _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
        lengths += 1
        longest = max(longest, lengths.max())
        lengths[terminated | truncated] = 0
    assert 0 < longest <= limit
