"""Every command and option of the command line, end to end, on a tiny run of each kind."""

import shutil
from pathlib import Path

import imageio.v3 as iio
import pytest

from command_line import as_json, done, refused
from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.settings.sources import config_names, read_config
from ntm_rl.agents.speed import comparisons
from ntm_rl.agents.speed.rows import Row
from ntm_rl.agents.tracking.csv_log import read_table
from small_trainings import TINY_COPY, TINY_NTM, TINY_PPO

PPO = (*TINY_PPO, *TINY_NTM, "total_timesteps=128", "ppo.stats_window_size=2", "env.id=CartPole-v1")
COPY = (
    *TINY_COPY,
    *TINY_NTM,
    "total_sequences=20",
    "validation.every=10",
    "log_every=5",
    "validation.longer=[{length: 4}]",
)

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """A finished run of each kind of training, by the commands that a user types."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", "popgym/repeat_previous_easy", *PPO, f"run_dir={folder}"]) == 0
    assert main(["train", "algorithmic/copy", *COPY, f"run_dir={folder}"]) == 0
    return {
        config: str(next((folder / config).iterdir())) for config in ("popgym/repeat_previous_easy", "algorithmic/copy")
    }


@pytest.fixture
def ppo_run(runs) -> str:
    return runs["popgym/repeat_previous_easy"]


@pytest.fixture
def copy_run(runs) -> str:
    return runs["algorithmic/copy"]


def test_a_run_directory_has_the_documented_files(ppo_run):
    assert {path.name for path in Path(ppo_run).iterdir()} == {
        *("config.yaml", "progress.csv", "tensorboard", "checkpoints", "agent", "best"),
    }


@pytest.mark.parametrize("options", [[], ["--stochastic"], ["--best"], ["--best", "--stochastic"]])
def test_evaluate_plays_the_requested_number_of_episodes(ppo_run, options, capsys):
    row = as_json(capsys, "evaluate", ppo_run, "--episodes", "3", "--seed", "5", *options)
    assert row["run"] == ppo_run and row["episodes"] == 3
    assert row["mean_return"] == row["mean_length"] >= 8  # CartPole pays 1 a step, and falls in no fewer
    assert as_json(capsys, "evaluate", ppo_run, "--episodes", "3", "--seed", "5", *options)["mean_return"] > 0
    assert done(capsys, "evaluate", ppo_run, "--episodes", "3", *options).startswith("3 episodes: mean return ")


def test_evaluate_is_reproducible_with_a_seed(ppo_run, capsys):
    first, again = (as_json(capsys, "evaluate", ppo_run, "--episodes", "4", "--seed", "5") for _ in range(2))
    assert first == again


def test_evaluate_scores_a_supervised_run_by_difficulty(copy_run, capsys):
    scores = as_json(capsys, "evaluate", copy_run, "--episodes", "3")["scores"]
    assert list(scores) == ["as in training", "length=4"]
    scores = as_json(capsys, "evaluate", copy_run, "--difficulty", "length=1", "--difficulty", "length=2", "--best")
    assert list(scores["scores"]) == ["length=1", "length=2"] and scores["scores"]["length=1"]["bits"] > 0


def test_a_difficulty_is_rejected_for_ppo_runs(ppo_run, capsys):
    line = refused(capsys, "evaluate", ppo_run, "--difficulty", "length=1")
    assert line == "--difficulty length=1: only for runs of supervised tasks; leave it out"


def test_one_learning_curve_of_both_kinds_of_run_is_rejected(copy_run, ppo_run, capsys):
    line = refused(capsys, "inspect", copy_run, ppo_run)
    assert ppo_run in line and line.endswith("a figure shows supervised runs or PPO runs, not both")


@pytest.mark.parametrize("options", [["--stochastic"], ["--max-steps", "3"]])
def test_options_for_environments_are_rejected_for_supervised_runs(copy_run, options, capsys):
    assert "only for runs with an environment" in refused(capsys, "evaluate", copy_run, *options)


def test_a_sequence_too_long_for_memory_is_rejected(copy_run, capsys):
    capsys.readouterr()
    assert main(["evaluate", copy_run, "--difficulty", "length=99999999999"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "length = 99999999999: must be at most 100,000"


@pytest.mark.parametrize("command", ["evaluate", "record", "inspect", "resume"])
def test_a_file_name_that_is_too_long_is_invalid_input(command, capsys):
    assert refused(capsys, command, "x" * 300).endswith("': File name too long")


def test_a_finished_agent_without_checkpoints_is_not_replaced(ppo_run, copy_run, tmp_path, capsys):
    for run in (ppo_run, copy_run):
        copy = shutil.copytree(run, tmp_path / Path(run).parent.name)
        shutil.rmtree(copy / "checkpoints")
        before = (copy / "agent" / "weights.safetensors").read_bytes()
        assert "no checkpoint to resume from, and restarting the training would replace" in refused(
            capsys, "resume", str(copy)
        )
        assert (copy / "agent" / "weights.safetensors").read_bytes() == before


def test_resume_prints_its_first_step_and_the_changed_settings(ppo_run, tmp_path, capsys):
    copy = str(shutil.copytree(ppo_run, tmp_path / "copy"))
    assert main(["resume", copy]) == 0
    assert "resumes at 128 of 128; nothing is left to train\n" in capsys.readouterr().err
    assert main(["resume", copy, "total_timesteps=192", "ppo.gamma=0.5"]) == 0
    error = capsys.readouterr().err
    assert "resumes at 128 of 192\n" in error and "ppo.gamma = 0.5 (was 0.99)\n" in error


def test_a_learning_curve_with_text_is_rejected(ppo_run, tmp_path, capsys):
    copy = shutil.copytree(ppo_run, tmp_path / "copy")
    (copy / "progress.csv").write_text("rollout/ep_rew_mean,time/total_timesteps\n1,x\n")
    assert "must be numbers: could not convert" in refused(capsys, "inspect", str(copy))


@pytest.mark.parametrize("options", [[], ["--stochastic", "--best"]])
def test_record_films_the_requested_number_of_episodes(ppo_run, options, tmp_path, capsys):
    film = as_json(capsys, "record", ppo_run, "--out", "film.mp4", "--episodes", "2", "--seed", "3", *options)
    assert Path(film["path"]) == Path("film.mp4") and len(film["returns"]) == 2
    assert len(iio.imread(tmp_path / "film.mp4")) == film["steps"] == sum(film["returns"])
    assert "exists already" in refused(capsys, "record", ppo_run, "--out", "film.mp4")


def test_record_writes_into_the_run_by_default(ppo_run, capsys):
    text = done(capsys, "record", ppo_run)
    (film,) = (Path(ppo_run) / "videos").iterdir()
    assert text.startswith(f"{film}: ") and film.suffix == ".mp4"


def test_inspect_draws_several_ppo_runs(ppo_run, capsys):
    figures = {name: f"{ppo_run}/figures/{name}.png" for name in ("learning_curve", "memory_use")}
    assert done(capsys, "inspect", ppo_run, ppo_run) == "".join(f"{file}\n" for file in figures.values())
    assert as_json(capsys, "inspect", ppo_run) == figures


def test_resume_makes_the_path_of_a_module_absolute(ppo_run, tmp_path):
    copy = shutil.copytree(ppo_run, tmp_path / "copy")
    assert main(["resume", str(copy), "total_timesteps=256", "env.path=.", "--trust"]) == 0
    assert f"path: {tmp_path}\n" in (copy / "config.yaml").read_text()


@pytest.mark.parametrize("config", ["popgym/repeat_previous_easy", "algorithmic/copy"])
def test_a_resume_with_nothing_left_to_train_leaves_the_last_checkpoint_as_it_is(runs, tmp_path, config):
    copy = shutil.copytree(runs[config], tmp_path / "copy")
    last = max((copy / "checkpoints").iterdir())
    before = last.read_bytes()
    assert main(["resume", str(copy)]) == 0
    assert max((copy / "checkpoints").iterdir()) == last and last.read_bytes() == before


def test_resume_prints_the_same_result_as_train(ppo_run, copy_run, capsys):
    row = as_json(capsys, "resume", ppo_run, "--total-timesteps", "192")
    assert (row["run"], row["timesteps"]) == (ppo_run, 192)
    assert [int(each["time/total_timesteps"]) for each in read_table(Path(ppo_run, "progress.csv"))[1]] == [
        64,
        128,
        192,
    ]
    row = as_json(capsys, "resume", copy_run, "total_sequences=30")
    assert row["sequences"] == 30 and row["bits_per_sequence"] > 0
    assert f"Next: ntm-rl evaluate {ppo_run}" in done(capsys, "resume", ppo_run)


@pytest.mark.parametrize("what", ["envs", "cores", "configs", "spaces"])
def test_list_prints_the_same_names_as_lines_and_json(what, capsys):
    assert as_json(capsys, "list", what) == done(capsys, "list", what).splitlines()


def test_show_prints_the_resolved_config_and_copy_the_original_text(capsys):
    shown = done(capsys, "show", "algorithmic/copy", "--core", "gru", "memory.gru.hidden_size=7")
    Path("shown.yaml").write_text(shown)
    assert done(capsys, "show", "shown.yaml") == shown and "core: gru" in shown
    assert "optimizer.momentum: float = 0.9\n    Momentum" in done(capsys, "show", "algorithmic/copy", "--keys")
    for number, config in enumerate(config_names()[:3]):
        assert done(capsys, "copy", config, f"my copy {number}.yaml") == f"Next: ntm-rl train 'my copy {number}.yaml'\n"
        assert Path(f"my copy {number}.yaml").read_text() == read_config(config)[0]
    space = done(capsys, "show", "spaces/ntm")
    assert done(capsys, "copy", "spaces/ntm", "space.yaml") == "Next: ntm-rl sweep CONFIG space.yaml\n"
    assert Path("space.yaml").read_text() == space
    assert "a search space; use ntm-rl sweep CONFIG spaces/ntm" in refused(capsys, "train", "spaces/ntm")


def test_convert_writes_agent_files(capsys):
    kwargs = dict(core="lstm", core_kwargs=dict(hidden_size=4))
    MemoryPPO("MlpNtmPolicy", "CartPole-v1", n_steps=16, batch_size=16, policy_kwargs=kwargs).save("agent.zip")
    assert done(capsys, "convert", "agent.zip", "agent", "--trust").startswith("agent: load it with ")
    assert {path.name for path in Path("agent").iterdir()} == {"card.json", "weights.safetensors"}


def test_benchmark_speed_prints_each_row(monkeypatch, capsys):
    row = Row("copy", 200.0, 100.0, "steps/s", 2.0, ">= 1.5", True, 1)
    monkeypatch.setattr(comparisons, "speed", lambda only: [row] if only in (None, "copy") else [])
    assert done(capsys, "benchmark", "speed", "--only", "copy").startswith(
        "copy: 200 steps/s against 100 steps/s, ratio 2"
    )
    assert as_json(capsys, "benchmark", "speed") == [vars(row)]


def test_benchmark_random_prints_one_row_per_task(capsys):
    options = ("random", "--suites", "general-dev,popgym", "--tasks", "MemoryChain-20,RepeatFirstEasy", "--episodes=64")
    header, *rows = done(capsys, "benchmark", *options).splitlines()
    printed = [row.split(",") for row in rows]
    assert header == "task,episodes,mean,error"
    assert [row[:2] for row in printed] == [["MemoryChain-20", "64"], ["RepeatFirstEasy", "64"]]
    values = as_json(capsys, "benchmark", *options)
    assert [float(row[2]) for row in printed] == pytest.approx([row["mean"] for row in values], rel=1e-4)
    chain = values[0]  # returns of 1 and -1
    assert chain["error"] == pytest.approx(((1 - chain["mean"] ** 2) / 63) ** 0.5)
    assert as_json(capsys, "benchmark", *options, "--seed", "1") != values
    assert "episodes = 1: must be at least 2" in refused(capsys, "benchmark", *options[:-1], "--episodes", "1")
    assert "task = 'Copi': unknown task" in refused(capsys, "benchmark", *options[:3], "--tasks", "Copi")


def test_benchmark_tasks_prints_a_table(capsys):
    table = done(capsys, "benchmark", "tasks", "--suite", "memory_len").splitlines()
    assert table[0] == "| task | longest episode | steps | random play | optimum |"
    assert [line.split(" | ")[1] for line in table[2:]] == ["3", "6", "11", "21", "41", "101"]
    values = as_json(capsys, "benchmark", "tasks", "--suite", "memory_len")
    assert [row["longest_episode"] for row in values] == [3, 6, 11, 21, 41, 101]
