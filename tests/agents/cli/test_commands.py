"""The command line, end to end on small trainings."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import as_json, done, refused, run
from ntm_rl.agents.cli import list_names
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings import loading
from small_trainings import SMALL_NTM, TINY_COPY, TINY_NTM, TINY_PPO
from waiting import wait_until

TINY = (*TINY_PPO, *TINY_NTM, "total_timesteps=768", "n_envs=4", "ppo.n_steps=64", "checkpoint.every=256")
CONFIG = "popgym/repeat_previous_easy"


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def train(capsys, *overrides: str) -> dict:
    return as_json(capsys, "train", CONFIG, *TINY, *overrides)


def test_a_run_directory_is_complete_and_can_be_evaluated_and_resumed(capsys):
    result = train(capsys)
    assert result.keys() == {"run", "mean_return", "timesteps", "steps_per_second"}
    assert result["timesteps"] == 768 and -1 <= result["mean_return"] <= 1
    folder = Path(result["run"])
    assert folder.parent == Path("runs/popgym/repeat_previous_easy")
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "progress.csv",
        "tensorboard",
        "checkpoints",
        "agent",
    }
    code, out, _ = run(capsys, "evaluate", str(folder), "--episodes", "5", "--json")
    evaluation = json.loads(out)
    assert code == 0 and evaluation["ended"] == 5 and evaluation["mean_return_so_far"] is None
    assert evaluation["agent"] == "last" and evaluation["step"] == 768 and evaluation["level"] is None
    assert evaluation["source"] == str(folder / "agent")
    assert evaluation["episodes"] == 5 and evaluation["mean_length"] == 51

    code, out, _ = run(capsys, "resume", str(folder), "total_timesteps=1024")
    assert code == 0
    assert "Finished after 1,024 environment steps" in out and f"Next: ntm-rl evaluate {folder}" in out
    assert Run.open(folder).checkpoints.joinpath("step-000000001024.safetensors").is_file()


def test_a_normalised_environment_and_dict_observations_train_and_evaluate(capsys):
    overrides = ["env.id=CartPole-v1", "env.previous_action=true", "env.normalize_observation=true"]
    folder = train(capsys, *overrides, "core=lstm", "env.normalize_reward=true", "ppo.learning_rate_schedule=linear")[
        "run"
    ]
    for options in ([], ["--stochastic"]):
        code, out, _ = run(capsys, "evaluate", folder, "--episodes", "3", "--json", *options)
        assert code == 0 and json.loads(out)["mean_return"] >= 1
    code, _, error = run(capsys, "evaluate", folder, "--best", "--episodes", "0")
    assert (code, error.strip()) == (2, "episodes = 0: must be at least 1")


def test_an_unfinished_run_is_evaluated_from_its_checkpoint(capsys):
    folder = Path(train(capsys, "env.id=CartPole-v1", "env.normalize_observation=true")["run"])
    for path in (folder / "agent").iterdir():
        path.unlink()
    (folder / "agent").rmdir()
    assert run(capsys, "evaluate", str(folder), "--episodes", "2", "--json")[0] == 0


def test_lists_show_and_copy(capsys):
    cores = run(capsys, "list", "cores")[1].split()
    assert cores[:4] == ["ntm", "ntm_block", "lstm", "gru"]
    assert {"dnc", "sam", "mann", "gated_delta", "gtrxl", "frame_stack"} <= {*cores}
    assert CONFIG in json.loads(run(capsys, "list", "configs", "--json")[1])
    envs = run(capsys, "list", "envs")[1].split()
    assert {"CartPole-v1", "popgym-RepeatPreviousEasy-v0", "MiniGrid-MemoryS7-v0", "ntm_rl/CartPoleNoVelocity-v0"} <= {
        *envs
    }
    assert "learning_rate: 0.002" in run(capsys, "show", CONFIG, "ppo.learning_rate=2e-3")[1]
    keys = run(capsys, "show", CONFIG, "--keys")[1]
    assert "memory.ntm.slots: int = 32\n    Memory slots N." in keys
    assert run(capsys, "copy", CONFIG, "mine.yaml")[0] == 0
    assert Path("mine.yaml").read_text().startswith("# ")
    code, _, error = run(capsys, "copy", CONFIG, "mine.yaml")
    assert code == 2 and "file = 'mine.yaml': exists already" in error
    assert run(capsys, "show", "mine.yaml")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "popgym/nothing"], "config = 'popgym/nothing': no such file, packaged config or environment"),
        (["train", CONFIG, "ppo.gama=1"], "Did you mean ppo.gamma?"),
        (["train", CONFIG, "env.id=Nothing-v0"], "env.id = 'Nothing-v0': unknown environment"),
        (["train", CONFIG, "env.id=Pendulum-v1", "env.vectorization=native"], "env.vectorization = 'native'"),
        (["evaluate", "nowhere"], "run = 'nowhere': no such folder"),
        (["resume", "."], "run = '.': not a run: it has no config.yaml"),
    ],
)
def test_invalid_input_is_one_message_with_code_2_and_creates_nothing(capsys, arguments, message):
    code, out, error = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in error and "Traceback" not in error
    assert not Path("runs").exists()


def test_an_interrupt_outside_a_training_is_one_message(capsys, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(list_names, "_cores", interrupt)
    code, _, error = run(capsys, "list", "cores")
    assert (code, error) == (130, "interrupted\n")


def test_an_interrupt_before_a_training_starts_names_resume(capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load_settings", interrupt)
    code, _, error = run(capsys, "train", CONFIG)
    assert (code, error) == (130, "interrupted; `ntm-rl resume RUN` continues a training that had started\n")


def test_a_run_directory_that_cannot_be_created_is_one_message(capsys):
    Path("runs").write_text("a file where the folder should be")
    code, _, error = run(capsys, "train", CONFIG, *TINY)
    assert code == 3 and "run_dir = 'runs'" in error and "cannot be made" in error


def test_a_log_that_cannot_be_opened_is_one_message(capsys, monkeypatch):
    folder = Path(train(capsys)["run"])
    (folder / "progress.csv").unlink()
    (folder / "progress.csv").mkdir()
    code, _, error = run(capsys, "resume", str(folder), "total_timesteps=2000")
    assert code == 2 and error.splitlines()[-1] == f"{folder.resolve()}/progress.csv: Is a directory"


def test_a_full_disk_stops_a_training_with_one_message_and_keeps_the_checkpoints(capsys, monkeypatch):
    folder = Path(train(capsys)["run"])
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, _, error = run(capsys, "resume", str(folder), "total_timesteps=2000")
    assert code == 3 and error.endswith("config.history.yaml: cannot be written: No space left on device\n")
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before


def test_damaged_checkpoints_and_agents_are_one_message(capsys):
    folder = Path(train(capsys)["run"])
    weights = folder / "agent" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    code, _, error = run(capsys, "evaluate", str(folder))
    assert code == 2 and "damaged" in error
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"x" * 100)
    with pytest.warns(UserWarning, match="skipped a checkpoint"):
        code, _, error = run(capsys, "resume", str(folder), "total_timesteps=2000")
    assert code == 2 and "no usable checkpoint" in error


def test_a_terminated_training_prints_the_resume_command_which_works():
    command = [sys.executable, "-m", "ntm_rl.agents", "train", CONFIG, *TINY, "total_timesteps=100000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wait_until(lambda: list(Path().glob("runs/*/*/*/checkpoints/step-*")))
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM" in out
    resume = next(line for line in out.splitlines() if line.startswith("Next: ntm-rl resume "))
    folder = resume.removeprefix("Next: ntm-rl resume ")
    saved = max(int(path.stem.removeprefix("step-")) for path in Path(folder, "checkpoints").iterdir())
    environment = {**os.environ, "COLUMNS": "100"}
    again = [sys.executable, "-m", "ntm_rl.agents", "resume", folder, f"total_timesteps={saved + 512}", "--json"]
    printed = subprocess.run(again, capture_output=True, text=True, env=environment, check=True).stdout
    assert json.loads(printed)["timesteps"] == saved + 512


def test_a_supervised_run_is_evaluated_resumed_and_drawn(capsys):
    folder = as_json(capsys, "train", "algorithmic/copy", *TINY_COPY, *SMALL_NTM)["run"]
    assert "length=2: " in done(capsys, "evaluate", folder, "--difficulty", "length=2", "--episodes", "4")
    assert "must be like length=10,repeats=20" in refused(capsys, "evaluate", folder, "--difficulty", "length")
    line = refused(capsys, "evaluate", folder, "--difficulty", "length=2,length=3")
    assert "length=2,length=3: a name occurs twice" in line
    assert "Finished after 80 sequences" in done(capsys, "resume", folder, "total_sequences=80")
    files = as_json(capsys, "inspect", folder, folder)
    assert sorted(files) == ["answers", "learning_curve", "memory_use"]
    assert all(Path(file).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for file in files.values())
