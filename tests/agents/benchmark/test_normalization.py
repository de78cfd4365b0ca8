"""Random play and optima of the suites' tasks."""

from itertools import pairwise

import numpy as np
import pytest

from ntm_rl.agents.benchmark.budgets import task_settings
from ntm_rl.agents.benchmark.normalization import Optimum, Reference, is_normalized, references
from ntm_rl.agents.benchmark.random_play import random_returns
from ntm_rl.agents.benchmark.suites import SUITES, SuiteTask
from ntm_rl.agents.benchmark.tables import describe_task
from ntm_rl.envs.memory import endless_tmaze, passive_tmaze
from ntm_rl.envs.native import make_native

TASKS = {task.name: task for suite in SUITES.values() for task in suite.tasks if task.is_generic}


def test_every_task_with_the_package_defaults_has_references_and_its_name_is_unique():
    assert references().keys() == TASKS.keys()
    for suite in SUITES.values():
        for task in suite.tasks:
            assert not task.is_generic or TASKS[task.name] == task
    for name, reference in references().items():
        assert reference.random < reference.optimum.value, name
    assert [name for name in SUITES if is_normalized(name)] == [
        "popgym",
        "memory-rewriting",
        "general-dev",
        "general-test",
    ]


def test_a_score_is_0_for_random_play_and_1_at_the_optimum():
    reference = Reference(-0.5, Optimum(1.5))
    assert [reference.score(each) for each in (-0.5, 0.0, 1.5, -1.5)] == [0, 0.25, 1, -0.5]


def expected_random_returns() -> dict[str, float]:
    """The means that follow from the rules."""
    means = dict.fromkeys(("MemoryChain-20", "MemoryChain-100", "Copy", "AssociativeRecall", "HigherLowerEasy"), 0.0)
    means |= dict.fromkeys(("RepeatFirstHard", "RepeatPreviousMedium", "AutoencodeHard"), 0.25 - 0.75)
    means |= {f"MultiarmedBandit{each}": 0.0 for each in ("Easy", "Medium", "Hard")}
    means |= {"CountRecallEasy": 2 / 27 - 1, "CountRecallMedium": 2 / 27 - 1, "CountRecallHard": 2 / 17 - 1}
    means |= {f"PassiveTMaze-{length}": passive_tmaze.random_return(length) for length in (50, 250, 500)}
    means |= {"EndlessTMaze-fixed-1-1": endless_tmaze.random_return(1, 1)}
    means |= {"EndlessTMaze-uniform-5-3": endless_tmaze.random_return(3, 3), "ColorCubes-trivial": 0.1775}
    return means


def test_measured_random_returns_agree_with_the_rules():
    for name, mean in expected_random_returns().items():
        # Four standard errors of 10,000 episodes whose returns have a deviation of at most 1.
        assert references()[name].random == pytest.approx(mean, abs=0.04), name


@pytest.mark.parametrize("name", ["MemoryChain-20", "BattleshipEasy", "Copy", "PositionOnlyPendulumHard", "MemoryS7"])
def test_random_play_can_be_repeated_and_agrees_with_the_table(name):
    settings = task_settings(TASKS[name]).env_settings
    returns = random_returns(settings, 300, seed=7)
    assert returns.shape == (300,) and np.array_equal(returns, random_returns(settings, 300, seed=7))
    assert returns.mean() == pytest.approx(references()[name].random, abs=4 * returns.std() / 300**0.5 + 1e-3)


def count_cards(decks: int, episodes: int) -> np.ndarray:
    """Returns of HigherLower for an agent that names the more frequent of the higher and the lower cards left."""
    rng, returns = np.random.default_rng(0), np.zeros(episodes)
    for episode in range(episodes):
        left = np.repeat(4 * decks, 13)
        deck = rng.permutation(np.arange(52 * decks) // 4 % 13)
        for current, following in pairwise(deck):
            left[current] -= 1
            direction = 1 if left[current + 1 :].sum() >= left[:current].sum() else -1
            returns[episode] += direction * np.sign(following - current) / (52 * decks)
    return returns


def test_the_optimum_of_higher_lower_is_that_of_counting_cards():
    for decks, difficulty in ((1, "Easy"), (2, "Medium"), (3, "Hard")):
        returns = count_cards(decks, 1200 // decks)
        error = returns.std() / len(returns) ** 0.5
        assert references()[f"HigherLower{difficulty}"].optimum.value == pytest.approx(returns.mean(), abs=4 * error)


@pytest.mark.parametrize("size", [7, 9, 11, 13])
def test_the_bound_of_minigrids_memory_is_the_shortest_way_to_the_matching_object(size):
    envs = make_native(f"MiniGrid-MemoryS{size}-v0", 1, {"agent_view_size": 3})
    away = np.where(envs._outcomes == 1, 0, np.inf)  # steps to a matching object
    for _ in away:
        away = np.where(envs._outcomes == 0, np.minimum(away, 1 + away[envs._moves].min(axis=1)), away)
    mean = np.mean([1 - 0.9 * away[start] / (5 * size**2) for start in envs._starts.values()])
    assert references()[f"MemoryS{size}"].optimum == Optimum(pytest.approx(mean), is_exact=False)


def test_the_bound_of_the_bandit_is_the_mean_of_the_best_arm():
    best = np.random.default_rng(0).random((20_000, 20)).max(axis=1)
    assert references()["MultiarmedBanditMedium"].optimum.value == pytest.approx((2 * best - 1).mean(), abs=0.003)


def test_right_answers_return_the_optimum_of_card_games():
    for name in ("RepeatFirstMedium", "RepeatPreviousHard", "CountRecallHard", "AutoencodeEasy"):
        envs = make_native(f"popgym-{name}-v0", 2, {})
        envs.reset(seed=0)
        total, ended = np.zeros(2), np.zeros(2, dtype=bool)
        while not ended.any():
            _, rewards, ended, _, _ = envs.step(np.maximum(envs._answers[envs._indices, envs._time], 0))
            total += rewards
        assert total == pytest.approx([references()[name].optimum.value] * 2)


def test_tasks_with_a_config_of_their_own_have_no_references():
    small = describe_task(SUITES["popgym-small"].tasks[0])
    assert small["task"] in references() and small["random_return"] is None and small["optimum"] is None
    assert describe_task(TASKS["MemoryS7"]) == {
        "task": "MemoryS7",
        "longest_episode": 245,
        "timesteps": 245_000,
        "random_return": references()["MemoryS7"].random,
        "optimum": references()["MemoryS7"].optimum.value,
        "is_exact": False,
    }
    assert describe_task(SuiteTask("open", "control/cartpole_no_velocity"))["longest_episode"] == 500
