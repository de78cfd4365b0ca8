"""Every option of `env.` through the command line, on ordinary environments: trained, evaluated, resumed."""

from pathlib import Path

import pytest

from command_line import as_json
from ntm_rl.agents.tracking.csv_log import read_table
from small_trainings import TINY_LSTM, TINY_PPO

TINY = (*TINY_PPO, *TINY_LSTM, "total_timesteps=128", "checkpoint.every=64")
CONFIG = "popgym/repeat_previous_easy"
CARTPOLE = "env.id=CartPole-v1"
COPY = ["env.id=ntm_rl/Copy-v0", "env.kwargs.curriculum=lookahead", "env.kwargs.max_length=6"]


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.mark.parametrize(
    "overrides",
    [
        ["env.vectorization=auto"],
        ["env.vectorization=native"],
        ["env.vectorization=sync"],
        ["env.vectorization=subprocess"],
        [CARTPOLE, "env.vectorization=subprocess", "env.restart_workers=true", "env.worker_timeout=60"],
        [*COPY, "env.vectorization=native"],
        [*COPY, "env.vectorization=sync"],
        [*COPY, "env.vectorization=subprocess"],
        [CARTPOLE, "env.mask_velocity=true"],
        [CARTPOLE, "env.mask_velocity=true", "env.vectorization=subprocess", "env.max_episode_steps=7"],
        ["env.previous_action=true"],
        ["env.previous_reward=true"],
        [CARTPOLE, "env.previous_action=true", "env.previous_reward=true", "env.vectorization=subprocess"],
        [CARTPOLE, "env.normalize_observation=true", "env.normalize_reward=true"],
        [CARTPOLE, "env.normalize_observation=true", "env.previous_action=true", "env.vectorization=subprocess"],
        ["env.id=FrozenLake-v1", "env.normalize_observation=true", "env.previous_action=true"],
        ["env.id=Pendulum-v1", "env.max_episode_steps=9", "env.kwargs.g=9"],
    ],
    ids=" ".join,
)
def test_every_option_trains_evaluates_and_resumes(capsys, overrides):
    run = as_json(capsys, "train", CONFIG, *TINY, *overrides)["run"]
    length = as_json(capsys, "evaluate", run, "--episodes", "2")["mean_length"]
    limits = [int(each.partition("=")[2]) for each in overrides if each.startswith("env.max_episode_steps")]
    assert 1 <= length <= min([*limits, 200])
    assert as_json(capsys, "resume", run, "total_timesteps=192")["timesteps"] == 192
    _, rows = read_table(Path(run, "progress.csv"))
    assert [int(row["time/total_timesteps"]) for row in rows] == [64, 128, 192]
    if overrides[: len(COPY)] == COPY:
        assert all(float(row["rollout/level"]) >= 1 for row in rows)
