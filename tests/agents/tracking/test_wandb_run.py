"""W&B runs: ids, modes, logins, and offline runs read back from their files."""

import csv
import http.server
import os
import socket
import subprocess
import sys
import threading
from urllib.parse import urlsplit

import pytest
import wandb
from stable_baselines3.common.env_util import make_vec_env

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.inspection.figures import inspect
from ntm_rl.agents.ppo.callbacks import CheckpointCallback
from ntm_rl.agents.ppo.checkpoints import load_checkpoint
from ntm_rl.agents.settings.kinds import PPO, SUPERVISED
from ntm_rl.agents.tracking import wandb_run
from ntm_rl.agents.tracking.wandb_run import default_mode, start_wandb
from small_trainings import TINY_PPO, train_copy
from tracking_logs import begin, log, read_wandb, wait_for_another_second


def test_an_offline_run_has_config_and_metrics_in_order_after_a_resume(run_dir):
    writer, logger = begin(run_dir)
    for step in (100, 200, 300):
        log(logger, step, loss=step / 7)
    (run_dir / "agent").mkdir()
    (run_dir / "agent" / "card.json").write_text("{}")
    writer.log_agent("agent-x", run_dir / "agent", ["latest"], {"timesteps": 300})
    logger.close()
    _, logger = begin(run_dir, steps=200)  # killed after 300, resumed from a checkpoint at 200
    for step in (300, 400):
        log(logger, step, loss=step / 7)
    logger.close()

    configs, history, artifacts = read_wandb(run_dir)
    assert {config["_id"] for config in configs} == {"task-20260101-000000-seed0-abcd"}
    assert configs[0]["ppo"] == {"gamma": 0.9} and configs[0]["seed"] == 3
    rows = [(row[PPO.steps_metric], row["train/loss"]) for row in history if "train/loss" in row]
    assert rows == [(step, step / 7) for step in (100, 200, 300, 400)]
    assert "agent-x" in artifacts


def test_a_real_training_that_was_killed_and_resumed_is_logged_by_steps_without_gap_or_repetition(
    run_dir,
):
    def train(steps: int, until: int) -> None:
        _, logger = begin(run_dir, steps)
        kwargs = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8))
        env = make_vec_env("CartPole-v1", 2, seed=0)
        model = MemoryPPO("MlpNtmPolicy", env, n_steps=32, batch_size=32, n_epochs=1, seed=0, policy_kwargs=kwargs)
        if steps:
            load_checkpoint(run_dir / "checkpoints" / f"step-{steps:012d}.safetensors", model)
        model.set_logger(logger)
        saves = CheckpointCallback(run_dir / "checkpoints", every=128, keep=9)
        model.learn(until - steps, saves, reset_num_timesteps=False)
        logger.close()

    train(0, 320)
    train(128, 448)  # as if the first had been killed before it could save at 256
    configs, history, _ = read_wandb(run_dir)
    assert {config["_id"] for config in configs} == {"task-20260101-000000-seed0-abcd"}
    assert [row[PPO.steps_metric] for row in history if "rollout/ep_rew_mean" in row] == [*range(64, 449, 64)]
    assert all({"train/loss", "time/fps"} <= row.keys() for row in history if row[PPO.steps_metric] in (128, 320, 448))
    with (run_dir / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row[PPO.steps_metric]) for row in rows] == [*range(64, 449, 64)]
    assert all(float(row["rollout/ep_rew_mean"]) > 0 for row in rows)


def test_a_supervised_training_and_its_figures_are_logged_against_sequences(tmp_path):
    run = train_copy(tmp_path, "total_sequences=40", "wandb=offline")
    wait_for_another_second(run.path)
    inspect(run)
    configs, history, artifacts = read_wandb(run.path)
    assert configs[0]["task"]["name"] == "copy"
    assert len({config["_id"] for config in configs}) == 1
    rows = [row for row in history if "validation/bits_per_sequence" in row]
    assert [row[SUPERVISED.steps_metric] for row in rows] == [20, 40]
    assert any(key.startswith("figures/memory_use") for row in history for key in row)
    assert any("agent-copy-" in name for name in artifacts)


def test_a_run_that_cannot_start_is_a_warning(run_dir, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.warns(UserWarning, match="could not start; training continues without it: no"):
        assert start_wandb(run_dir, {}, mode="offline", project="test") is None
    assert start_wandb(run_dir, {}, mode="disabled", project="test") is None


def test_a_run_of_the_caller_is_not_touched(run_dir, tmp_path):
    settings = wandb.Settings(silent=True, console="off")
    own = wandb.init(mode="offline", dir=str(tmp_path), id="own", settings=settings)
    _, logger = begin(run_dir)
    log(logger, 100, loss=1.0)
    logger.close()
    own.log({"still": "open"})
    own.finish()
    assert {config["_id"] for config in read_wandb(run_dir)[0]} == {"task-20260101-000000-seed0-abcd"}


@pytest.mark.parametrize("name", ["my config#1: a/b?", "x" * 200, "ünï"])
def test_any_name_of_a_config_makes_a_valid_id_and_artifact(tmp_path, name):
    folder = tmp_path / name / "20260101-000000-seed0-abcd"
    folder.mkdir(parents=True)
    writer = start_wandb(folder, {}, mode="offline", project="test")
    (folder / "agent").mkdir()
    (folder / "agent" / "card.json").write_text("{}")
    writer.log_agent(f"agent-{name}", folder / "agent", ["latest"], {})
    writer.close()
    (config,) = read_wandb(folder)[0]
    assert config["_id"].endswith("-20260101-000000-seed0-abcd") and len(config["_id"]) <= 128
    assert len(read_wandb(folder)[2]) == 1


def test_without_login_or_server_a_run_is_recorded_offline_with_a_warning(run_dir):
    script = f"""
import sys
from pathlib import Path
from ntm_rl.agents.tracking.wandb_run import start_wandb
writer = start_wandb(Path({str(run_dir)!r}), {{"seed": 3}}, mode="online", project="test")
writer.write({{"a": 1.0}}, {{"a": ()}}, 64)
writer.close()
"""
    nowhere = {"HOME": str(run_dir), "NETRC": str(run_dir / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    for login, reason in [({}, "not logged in"), ({"WANDB_API_KEY": "a" * 40}, "127.0.0.1:9 does not answer")]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=50, check=True, env={**environment, **nowhere, **login}
        )
        assert done.stderr.count("Warning") == 1 and reason in done.stderr
    configs, history, _ = read_wandb(run_dir)
    assert [config["seed"] for config in configs] == [3, 3]
    assert [(row["a"], row[PPO.steps_metric]) for row in history if "a" in row] == [(1.0, 64), (1.0, 64)]


class NotFound(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_any_response_in_time_counts_as_an_answer(monkeypatch):
    monkeypatch.setattr(wandb_run, "ANSWER_SECONDS", 0.3)
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert wandb_run._answers(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not wandb_run._answers(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert not wandb_run._answers("no address")


def test_the_default_mode_is_online_only_with_a_login(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = urlsplit(wandb.setup().settings.base_url).netloc

    def default_with(machine: str) -> str:
        (tmp_path / ".netrc").write_text(f"machine {machine} login user password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
        return default_mode()

    assert default_mode() == "offline"
    assert default_with("example.org") == "offline"
    assert default_with(server) == "online"
    (tmp_path / ".netrc").rename(tmp_path / "elsewhere")
    assert default_mode() == "offline"
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert default_mode() == "online"
    for chosen, mode in [("disabled", "disabled"), ("dryrun", "offline"), ("run", "online")]:
        monkeypatch.setenv("WANDB_MODE", chosen)
        assert default_mode() == mode


def test_no_secret_is_written_into_a_run_directory(tmp_path, monkeypatch, capsys):
    secret = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    arguments = ["train", "popgym/repeat_previous_easy", *TINY_PPO, "total_timesteps=128", f"run_dir={tmp_path}"]
    assert main([*arguments, "wandb=offline"]) == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    printed = capsys.readouterr()
    assert secret not in printed.out + printed.err
