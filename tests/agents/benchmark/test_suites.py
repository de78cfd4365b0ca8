"""The suites of the memory benchmark."""

import gymnasium as gym
import popgym  # noqa: F401  (registers its ids)
import pytest

from ntm_rl.agents.benchmark.budgets import task_settings
from ntm_rl.agents.benchmark.suites import SUITES, choose_tasks, find_suite
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.envs import make_vec_env
from ntm_rl.envs.native import NATIVE
from ntm_rl.errors import InputError

TASKS = [(name, task) for name, suite in SUITES.items() for task in suite.tasks]


def settings(suite: str) -> dict[str, PpoTrainingSettings]:
    return {task.name: task_settings(task) for task in SUITES[suite].tasks}


@pytest.mark.parametrize(("suite", "task"), TASKS, ids=[f"{suite}/{task.name}" for suite, task in TASKS])
def test_every_task_is_a_ppo_training_whose_environment_can_be_made(suite, task):
    made = load_settings(task.config, task.overrides)
    assert isinstance(made, PpoTrainingSettings)
    env = make_vec_env(made.env_settings, 1, 0)
    env.reset()
    env.close()
    assert not any(letter in task.name for letter in "./ ")  # it names a folder


def test_popgyms_games_are_native_and_share_their_hyperparameters():
    games = settings("popgym-small")
    assert [made.env.id for made in games.values()] == [f"popgym-{name}-v0" for name in games]
    assert {made.env.id for made in games.values()} <= {*NATIVE}


@pytest.mark.parametrize("suite", ["popgym-small", "popgym", "memory-rewriting", "general-dev", "general-test"])
def test_tasks_of_one_set_of_hyperparameters_differ_in_nothing_but_environment_and_budget(suite):
    own = {"env": None, "total_timesteps": 1}
    config = "popgym/repeat_previous_easy" if suite == "popgym-small" else "CartPole-v1"
    assert {made.model_copy(update=own).model_dump_json() for made in settings(suite).values()} == {
        load_settings(config).model_copy(update=own).model_dump_json()
    }


def test_the_suite_of_all_popgym_has_every_registered_id_and_previous_actions_where_popgym_requires_them():
    tasks = settings("popgym")
    registered = [name for name in gym.registry if name.startswith("popgym-") and "Labyrinth" not in name]
    assert sorted(made.env.id for made in tasks.values()) == sorted(registered)
    assert {made.env.id for made in tasks.values()} <= {*NATIVE}
    for made in tasks.values():
        assert made.env.previous_action == gym.make(made.env.id).unwrapped.obs_requires_prev_action


def test_no_task_is_both_for_development_and_for_the_test():
    dev, test = settings("general-dev"), settings("general-test")
    assert (len(dev), len(test)) == (16, 71)
    environments = [made.env.model_dump_json() for made in (*dev.values(), *test.values())]
    assert len({*environments}) == len(environments)
    games, rewriting = settings("popgym"), settings("memory-rewriting")
    assert {*games, *rewriting} - {"ColorCubes-extreme"} <= {*dev, *test}
    assert len(games) == 42 and len(rewriting) == 31


def test_the_view_in_minigrid_does_not_reach_the_first_object():
    assert [made.env.kwargs for made in settings("minigrid").values()] == [{"agent_view_size": 3}] * 2


def test_algorithmic_tasks_are_measured_at_fixed_difficulty():
    assert {made.env.kwargs["curriculum"] for made in settings("algorithmic").values()} == {"uniform"}


@pytest.mark.parametrize("suite", ["tmaze", "memory_len"])
def test_an_episode_fits_into_a_sequence(suite):
    for name, made in settings(suite).items():
        assert name == f"length-{made.env.kwargs['length']}"
        env, steps, ended = gym.make(made.env.id, **made.env.kwargs), 0, False
        env.reset(seed=0)
        while not ended:
            ended, steps = env.step(0)[2], steps + 1
        assert made.ppo.sequence_length >= steps
    assert [made.env.kwargs["length"] for made in settings("tmaze").values()] == [20, 50, 100, 250, 500]


@pytest.mark.parametrize("length", [250, 500])
def test_a_rollout_of_a_long_tmaze_is_one_episode_per_environment(length):
    made = settings("tmaze")[f"length-{length}"]
    assert made.ppo.n_steps == made.ppo.sequence_length == length + 1  # by hand: `length` to the junction, one to turn
    assert made.n_envs * made.ppo.n_steps == 4 * made.ppo.batch_size


def test_the_entropy_coefficient_is_proportional_to_the_cost_of_a_step():
    costs = {made.ppo.ent_coef: 1 / made.env.kwargs["length"] for made in settings("tmaze").values()}
    assert list(costs) == pytest.approx([0.15 * cost for cost in costs.values()])
    assert load_settings("memory/passive_tmaze").ppo.ent_coef in costs


def test_tasks_are_returned_in_the_given_order():
    suite = find_suite("tmaze")
    assert [task.name for task in choose_tasks(suite, ["length-100", "length-20"])] == ["length-100", "length-20"]
    assert choose_tasks(suite, None) == list(suite.tasks)


def test_unknown_names_are_rejected_with_the_valid_ones():
    with pytest.raises(InputError, match=r"suite = 'popgyn': unknown suite; valid are popgym-small, popgym, "):
        find_suite("popgyn")
    with pytest.raises(InputError, match=r"task = 'MemoryS8': unknown task; the suite has MemoryS7, MemoryS9"):
        choose_tasks(find_suite("minigrid"), ["MemoryS8"])
