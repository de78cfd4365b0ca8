"""The memory benchmark's suites name trainings that can be made."""

import gymnasium as gym
import pytest

from ntm_rl.agents.benchmark.suites import SUITES, choose_tasks, find_suite
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.envs import make_vec_env
from ntm_rl.envs.native import NATIVE
from ntm_rl.errors import InputError

TASKS = [(name, task) for name, suite in SUITES.items() for task in suite.tasks]


def settings(suite: str) -> dict[str, PpoTrainingSettings]:
    return {task.name: load_settings(task.config, task.overrides) for task in SUITES[suite].tasks}


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
    assert len({(made.ppo.model_dump_json(), made.n_envs, made.total_timesteps) for made in games.values()}) == 1


def test_minigrids_view_does_not_reach_back_to_the_first_object():
    assert [made.env.kwargs for made in settings("minigrid").values()] == [{"agent_view_size": 3}] * 2


def test_algorithmic_tasks_are_measured_at_fixed_difficulty():
    assert {made.env.kwargs["curriculum"] for made in settings("algorithmic").values()} == {"uniform"}


@pytest.mark.parametrize("suite", ["tmaze", "memory_len"])
def test_an_episode_fits_into_the_sequence_through_which_gradients_flow(suite):
    for name, made in settings(suite).items():
        assert name == f"length-{made.env.kwargs['length']}"
        env, steps, ended = gym.make(made.env.id, **made.env.kwargs), 0, False
        env.reset(seed=0)
        while not ended:
            ended, steps = env.step(0)[2], steps + 1
        assert made.ppo.sequence_length >= steps
    assert [made.env.kwargs["length"] for made in settings("tmaze").values()] == [20, 50, 100, 250, 500]


@pytest.mark.parametrize("length", [250, 500])
def test_a_rollout_of_a_long_tmaze_is_one_episode_of_each_copy(length):
    made = settings("tmaze")[f"length-{length}"]
    assert made.ppo.n_steps == made.ppo.sequence_length == length + 1  # by hand: `length` to the junction, one to turn
    assert made.n_envs * made.ppo.n_steps == 4 * made.ppo.batch_size


def test_the_entropy_bonus_is_the_smaller_the_less_a_step_aside_costs():
    costs = {made.ppo.ent_coef: 1 / made.env.kwargs["length"] for made in settings("tmaze").values()}
    assert list(costs) == pytest.approx([0.15 * cost for cost in costs.values()])
    assert load_settings("memory/passive_tmaze").ppo.ent_coef in costs


def test_tasks_can_be_chosen_in_an_order_of_ones_own():
    suite = find_suite("tmaze")
    assert [task.name for task in choose_tasks(suite, ["length-100", "length-20"])] == ["length-100", "length-20"]
    assert choose_tasks(suite, None) == list(suite.tasks)


def test_unknown_names_are_refused_with_the_valid_ones():
    with pytest.raises(InputError, match=r"suite = 'popgym': no such suite; valid are popgym-small, minigrid"):
        find_suite("popgym")
    with pytest.raises(InputError, match=r"task = 'MemoryS8': not in the suite, which has MemoryS7, MemoryS9"):
        choose_tasks(find_suite("minigrid"), ["MemoryS8"])
