"""Evaluations: which episodes are played and counted, and what is reported of episodes that do not end."""

import json
import shutil
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.inspection.evaluation import evaluate, evaluate_supervised, play_episodes, prepare, seeded
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.runs.loading import load_run_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.errors import InputError
from small_trainings import TINY_LSTM, TINY_PPO, train_copy, train_run


class Walk(gym.Env):
    """Random rewards; a share of its episodes never ends, the others take 3 steps."""

    def __init__(self, endless: float = 0.0):
        self.endless = endless
        self.observation_space, self.action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.ends = 0, self.np_random.random() >= self.endless
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        reward = 1.0 if self.endless else float(self.np_random.random())
        return np.zeros(1, np.float32), reward, self.ends and self.time == 3, False, {}


gym.register("tests/Walk-v0", Walk)


def train_tiny(folder, *overrides) -> Run:
    config = folder / "mine.yaml"
    config.write_text("env:\n  id: tests/Walk-v0\n")
    return train_run(str(config), folder, *TINY_PPO, *TINY_LSTM, "total_timesteps=64", *overrides)


@pytest.fixture(scope="module")
def walk(tmp_path_factory) -> Run:
    return train_tiny(tmp_path_factory.mktemp("runs"), "env.normalize_reward=true")


@pytest.fixture
def unfinished(walk, tmp_path) -> Run:
    """A run as a killed training leaves it."""
    run = Run.open(shutil.copytree(walk.path, tmp_path / "run"))
    shutil.rmtree(run.agent)
    return run


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Run:
    return train_tiny(tmp_path_factory.mktemp("runs"), "env.kwargs.endless=1.0")


def test_an_unfinished_run_plays_the_episodes_of_the_seed_as_a_finished_one_does(walk, unfinished):
    means = [[evaluate(run, 4, seed=seed).mean_return for seed in (1, 2)] for run in (walk, unfinished)]
    assert means[0] == means[1] and means[0][0] != means[0][1]


@pytest.mark.parametrize("episodes", [1, 3, 20])
def test_an_unfinished_run_plays_any_number_of_episodes(unfinished, episodes):
    result = evaluate(unfinished, episodes)
    assert (result.episodes, result.ended, result.mean_length) == (episodes, episodes, 3)
    assert result.origin.is_checkpoint and result.origin.step == 64


def test_sampled_actions_follow_the_seed(walk, monkeypatch):
    seen = []
    step = Walk.step
    monkeypatch.setattr(Walk, "step", lambda self, action: seen.append(int(action)) or step(self, action))
    for seed in (5, 5, 6):
        evaluate(walk, 16, seed=seed, deterministic=False)
    assert seen[:48] == seen[48:96] != seen[96:]


def test_state_dependent_exploration_follows_the_seed_and_differs_between_sub_environments(tmp_path):
    run = train_tiny(tmp_path, "env.id=Pendulum-v1", "ppo.use_sde=true")
    first, again, other = (evaluate(run, 2, seed=5, deterministic=each).mean_return for each in (False, False, True))
    assert first == again != other
    agent = load_run_agent(run)
    with seeded(agent, 5, 2):
        actions, _ = agent.predict(np.ones((2, 3), np.float32))
    assert actions[0] != actions[1]


def test_sampling_leaves_torchs_generator_alone(walk):
    agent, before = load_run_agent(walk), torch.get_rng_state()
    with seeded(agent, 5, 9):
        agent.predict(np.zeros((9, 1), np.float32))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_endless_episode_is_stopped_and_no_return_is_reported(endless, capsys):
    result = evaluate(endless, 3, max_steps=20)
    assert (result.ended, result.mean_return, result.std_return, result.mean_length) == (0, None, None, None)
    assert result.mean_return_so_far == 20
    assert main(["evaluate", str(endless.path), "--episodes", "2", "--max-steps", "5"]) == 2
    printed = capsys.readouterr()
    assert "0 of 2 episodes ended within 5 steps each: no return to report" in printed.out
    assert f"plays {endless.settings().env.id} with the last agent: step 64" in printed.err
    assert main(["evaluate", str(endless.path), "--episodes", "2", "--max-steps", "5", "--json"]) == 2
    row = json.loads(capsys.readouterr().out)
    assert (row["episodes"], row["ended"], row["mean_return"], row["mean_return_so_far"]) == (2, 0, None, 5)


def test_a_limit_of_10000_steps_is_the_default_and_environments_with_a_time_limit_have_none(endless, tmp_path):
    assert evaluate(endless, 1).max_steps == 10_000
    assert evaluate(train_tiny(tmp_path, "env.max_episode_steps=7", "env.kwargs.endless=1.0"), 2).mean_length == 7
    limited = train_tiny(tmp_path, "env.kwargs.max_episode_steps=7", "env.kwargs.endless=1.0")
    assert (evaluate(limited, 2).max_steps, evaluate(limited, 2).mean_length) == (None, 7)


class Idle(SimpleNamespace):
    """An agent that always does the same."""

    def predict(self, observations, state, starts, deterministic, action_masks=None):
        return np.zeros(len(observations), dtype=np.int64), None


def waits(*lengths: int) -> DummyVecEnv:
    """Sub-environments whose episodes have fixed lengths and a reward of 1 per step."""

    class Waits(Walk):
        def __init__(self, length):
            super().__init__(endless=1.0)
            self.length = length

        def step(self, action):
            observation, reward, _, _, info = super().step(action)
            ends = self.time == self.length
            return (
                observation,
                reward,
                ends,
                False,
                info | ({"episode": {"r": self.time, "l": self.time}} if ends else {}),
            )

    return DummyVecEnv([lambda length=length: Waits(length) for length in lengths])


def test_successes_are_logged_in_training_and_reported(tmp_path, capsys):
    (tmp_path / "maze.yaml").write_text("env:\n  id: ntm_rl/EndlessTMaze-v0\n  kwargs: {length: 1, corridors: 1}\n")
    run = train_run(str(tmp_path / "maze.yaml"), tmp_path, *TINY_PPO, *TINY_LSTM, "total_timesteps=256")
    logged = [float(row["rollout/success_rate"]) for row in read_table(run.path / "progress.csv")[1]]
    assert len(logged) == 4 and all(0 <= rate <= 1 for rate in logged) and any(logged)
    result = evaluate(run, 50, deterministic=False)
    assert result.success_rate is not None and 0 < result.success_rate < 1
    # A turn to the right side pays 1, and nothing else pays.
    env = make_vec_env(run.ppo_settings().env_settings, 2, 0)
    played = play_episodes(Idle(), env, 4, 100, True, show_progress=False)
    assert played.successes == [float(each > 0) for each in played.returns]
    assert main(["evaluate", str(run.path), "--episodes", "20", "--max-steps", "50", "--stochastic"]) == 0
    assert ", success rate 0." in capsys.readouterr().out


def test_an_environment_that_does_not_report_successes_has_no_rate(walk):
    assert evaluate(walk, 2).success_rate is None


def test_short_episodes_do_not_count_more_often():
    played = play_episodes(Idle(), waits(1, 10), 6, None, True, show_progress=False)
    assert sorted(played.returns) == [1, 1, 1, 10, 10, 10]


def test_an_episode_may_take_as_many_steps_as_the_limit_says():
    played = play_episodes(Idle(), waits(5, 6), 4, 5, True, show_progress=False)
    assert played.returns == [5, 5] and played.lengths == [5, 5] and played.stopped == [5]


def test_the_mean_of_the_ended_episodes_is_labelled_as_that_of_the_short_ones(tmp_path, capsys):
    run = train_tiny(tmp_path, "env.kwargs.endless=0.5")
    assert main(["evaluate", str(run.path), "--episodes", "16", "--max-steps", "9"]) == 0
    out = capsys.readouterr().out
    assert "of 16 episodes ended within 9 steps each: mean return 3.000" in out
    assert "covers only the shorter episodes" in out and "mean return of 9.000 so far" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes = 0: must be at least 1"),
        ({"max_steps": 0}, "max_steps = 0: must be at least 1"),
        ({"seed": -1}, r"seed = -1: must be from 0 to 4294967295"),
        ({"seed": 10**26}, r"seed = 1000.*: must be from 0"),
    ],
)
def test_bad_input_is_named(walk, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(walk, **options)


def test_an_agent_is_not_played_in_an_environment_of_other_actions(unfinished):
    text = unfinished.config_file.read_text()
    unfinished.config_file.write_text(text.replace("id: tests/Walk-v0", "id: Acrobot-v1"))
    with pytest.raises(InputError, match=r"the agent's spaces are .*Discrete\(2\), those of .*Discrete\(3\)"):
        evaluate(unfinished, 1)


def test_an_environment_that_cannot_be_closed_costs_no_result(walk, monkeypatch, capsys):
    def close(self):
        raise OSError("display is gone")

    monkeypatch.setattr(Walk, "close", close)
    assert evaluate(walk, 2).ended == 2
    error = capsys.readouterr().err
    assert "close raised an error: " in error and "test_evaluation.py" in error and "OSError: display is gone" in error


def test_an_agent_is_not_played_on_other_observations(unfinished):
    text = unfinished.config_file.read_text()
    unfinished.config_file.write_text(text.replace("id: tests/Walk-v0", "id: CartPole-v1"))
    with pytest.raises(
        InputError, match=r"the agent's spaces are Box\(.*\(1,\).* those of .* Box\(.*\(4,\).*was env changed"
    ):
        evaluate(unfinished, 1)


def test_returns_that_json_has_no_number_for_are_null(walk, monkeypatch, capsys):
    step = Walk.step

    def pays_without_end(self, action):
        observation, _, *rest = step(self, action)
        return observation, np.inf, *rest

    monkeypatch.setattr(Walk, "step", pays_without_end)
    assert main(["evaluate", str(walk.path), "--episodes", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert (row["ended"], row["mean_return"], row["std_return"], row["mean_length"]) == (1, None, None, 3)


@pytest.mark.parametrize("vectorization", ["native", "sync", "subprocess"])
def test_a_curriculum_stays_at_the_level_that_the_agent_reached(vectorization):
    kwargs = {"curriculum": "lookahead", "bits": 1, "min_length": 1, "max_length": 9}
    env = make_vec_env(EnvSettings("ntm_rl/Copy-v0", kwargs=kwargs, vectorization=vectorization), 2, 0)
    agent = SimpleNamespace(
        origin=SimpleNamespace(level=4, path="agent"),
        policy=SimpleNamespace(action_space=env.action_space, observation_space=env.observation_space),
    )
    prepare(env, agent)
    env.reset()
    for _ in range(30):
        env.step(np.zeros((2, *env.action_space.shape), dtype=np.int64))
    assert {each.level for each in curricula(env)} == {4}
    if vectorization != "subprocess":
        for each in curricula(env):
            for _ in range(200):
                each.report({"length": 4}, 0.0)
            assert each.level == 4
    env.close()


def test_evaluation_scores_each_difficulty_and_refuses_what_there_is_not(tmp_path):
    run = train_copy(tmp_path)
    scores = evaluate_supervised(run, 5).scores
    assert list(scores) == ["as in training", "length=5"]
    assert scores["length=5"].bits > 0
    assert list(evaluate_supervised(run, 5, [{"length": 2}], best=True).scores) == ["length=2"]
    with pytest.raises(InputError, match="items: unknown; a difficulty of this task has"):
        evaluate_supervised(run, 5, [{"items": 2}])
    with pytest.raises(InputError, match="episodes = 0: must be at least 1"):
        evaluate_supervised(run, 0)
    with pytest.raises(InputError, match="a supervised run plays no episodes"):
        evaluate(run)
