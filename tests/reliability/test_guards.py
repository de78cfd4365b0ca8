"""What a training does when numbers are not finite, when it is asked to end, and when an environment fails."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.cli.exit_codes import CANNOT_WRITE, NOT_FINITE
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.runs.nonfinite import NonFiniteError
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.envs.sb3.seeding import spawn_seed
from ntm_rl.envs.sb3.workers import WorkerError, WorkerVecEnv
from small_trainings import TINY_NTM, TINY_PPO
from waiting import wait_until

CORE = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=dict(pi=[8], vf=[8]))
TINY = (*TINY_PPO, *TINY_NTM, "ppo.n_steps=16", "ppo.sequence_length=8", "total_timesteps=320", "checkpoint.every=64")
CONFIG = "popgym/repeat_previous_easy"


class Faulty(gym.Env):
    """Shows zeros and pays nothing, but for one step of its life."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, bad_observation: int = -1, bad_reward: int = -1, is_continuous: bool = False):
        self.action_space = spaces.Box(-1, 1, (1,), np.float32) if is_continuous else spaces.Discrete(2)
        self.bad_observation, self.bad_reward, self.steps = bad_observation, bad_reward, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        observation = np.array([0, math.nan if self.steps == self.bad_observation else 0], np.float32)
        reward = math.inf if self.steps == self.bad_reward else 0.0
        return observation, reward, self.steps % 9 == 0, False, {}


def make_model(**faults) -> MemoryPPO:
    envs = DummyVecEnv([lambda: Faulty(is_continuous=faults.get("is_continuous", False)), lambda: Faulty(**faults)])
    return MemoryPPO("MlpNtmPolicy", envs, n_steps=16, sequence_length=8, batch_size=16, seed=0, policy_kwargs=CORE)


def weights(model: MemoryPPO) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()


@pytest.mark.parametrize("is_continuous", [False, True])
def test_an_observation_that_is_not_a_number_is_named_with_its_environment_and_step(is_continuous):
    model = make_model(bad_observation=20, is_continuous=is_continuous)
    with pytest.raises(NonFiniteError, match="observation of environment 1 at step 4 of the rollout is nan") as error:
        model.learn(64)
    found = error.value.report
    assert (found["quantity"], found["environment"], found["step"], found["index"]) == ("observation", 1, 4, [1])
    assert torch.isfinite(weights(model)).all()


def test_an_infinite_reward_is_named_before_it_is_learnt_from():
    model = make_model(bad_reward=5)
    before = weights(model)
    with pytest.raises(NonFiniteError, match="reward of environment 1 at step 4 of the rollout is inf"):
        model.learn(64)
    assert torch.equal(weights(model), before)


def test_a_gradient_that_overflows_names_its_parameter_and_sequences_and_changes_no_weight():
    model = make_model()  # later rollouts rescale the value layer before the update
    before = weights(model)
    model.policy.action_net.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteError, match=r"the gradient of an update is not finite; .* environment \d") as error:
        model.learn(32)
    assert "action_net.weight" in error.value.report["parameters with such a gradient"]
    [sequence] = error.value.report["sequences"]
    assert sequence["environment"] in (0, 1) and sequence["steps"] in ([0, 7], [8, 15])
    assert torch.equal(weights(model), before)


def test_a_loss_that_overflows_names_the_sequence_that_it_comes_from():
    model = make_model()
    model.learn(32)
    gae = model.rollout.compute_advantages

    def poisoned(*arguments):
        gae(*arguments)
        model.rollout.returns[9, 1] = math.inf

    model.rollout.compute_advantages = poisoned
    with pytest.raises(NonFiniteError, match="value_loss") as error:
        model.learn(32)
    assert error.value.report["sequences"] == [{"environment": 1, "steps": [8, 15]}]


@pytest.fixture
def overflowing(monkeypatch):
    """Makes the losses of the third rollout infinite as long as the learning rate is above a threshold."""

    def arrange(threshold: float) -> None:
        loss = MemoryPPO._loss

        def overflow(self, batch):
            total, measured = loss(self, batch)
            learning_rate = self.policy.optimizer.param_groups[0]["lr"]
            is_bad = self.num_timesteps == 192 and learning_rate > threshold
            return (total * math.inf if is_bad else total), measured

        monkeypatch.setattr(MemoryPPO, "_loss", overflow)

    return arrange


def train(tmp_path, *more: str) -> int:
    return main(["train", CONFIG, *TINY, f"run_dir={tmp_path}", "ppo.learning_rate=0.001", *more])


def test_a_training_stops_with_code_4_a_report_and_the_last_good_checkpoint(tmp_path, overflowing, capsys):
    overflowing(0.0)
    assert train(tmp_path) == NOT_FINITE
    error = capsys.readouterr().err.splitlines()[-1]
    assert "is not finite" in error and "the last good checkpoint is kept" in error
    [run] = tmp_path.glob("*/*/*")
    assert json.loads((run / "nonfinite-000000000192.json").read_text())["sequences"]
    assert max(run.glob("checkpoints/step-*")).name == "step-000000000128.safetensors"
    assert all(torch.isfinite(each).all() for each in read_tensors(max(run.glob("checkpoints/*")))[0].values())


def test_a_rollback_goes_on_from_the_last_checkpoint_with_half_the_learning_rate(tmp_path, overflowing, capsys):
    overflowing(0.0003)  # 0.001 and 0.0005 are too large, 0.00025 is not
    assert train(tmp_path, "on_nonfinite=rollback") == 0
    assert capsys.readouterr().err.count("back to step 128") == 2
    [run] = tmp_path.glob("*/*/*")
    _, rows = read_table(run / "progress.csv")
    assert [int(row["time/total_timesteps"]) for row in rows] == [32 * n for n in range(1, 11)]
    document = read_tensors(max(run.glob("checkpoints/*")))[1]
    assert document["extra"]["rollbacks"] == 2 and document["param_groups"][0]["lr"] == 0.00025
    assert main(["resume", str(run), "total_timesteps=384"]) == 0
    assert read_tensors(max(run.glob("checkpoints/*")))[1]["param_groups"][0]["lr"] == 0.00025


def test_rollbacks_are_counted_and_end(tmp_path, overflowing, capsys):
    overflowing(0.0)
    assert train(tmp_path, "on_nonfinite=rollback", "max_rollbacks=2") == NOT_FINITE
    assert capsys.readouterr().err.count("back to step 128") == 2


def test_a_supervised_training_rolls_back_too(tmp_path, monkeypatch, capsys):
    from ntm_rl.agents.supervised import trainer as supervised

    bits = supervised.bits_of

    def overflow(logits, targets, mask):
        trainer = sys._getframe(1).f_locals.get("self")
        is_bad = trainer is not None and trainer.sequences == 12 and trainer.rollbacks < 1
        return bits(logits, targets, mask) * (math.nan if is_bad else 1)

    monkeypatch.setattr(supervised, "bits_of", overflow)
    sizes = ["memory.ntm.slots=5", "memory.ntm.hidden_size=8", "task.copy.max_length=3", "batch_size=2"]
    sizes += ["total_sequences=20", "checkpoint.every=8", "log_every=4", "validation.every=10", "wandb=disabled"]
    arguments = ["train", "algorithmic/copy", *sizes, f"run_dir={tmp_path}", "optimizer.learning_rate=0.001"]
    arguments += ["optimizer.learning_rate_schedule=constant"]
    assert main([*arguments, "on_nonfinite=rollback"]) == 0
    assert "back to sequence 8, rollback 1" in capsys.readouterr().err
    [run] = tmp_path.glob("*/*/*")
    assert read_tensors(max(run.glob("checkpoints/*")))[1]["param_groups"][0]["lr"] == 0.0005
    assert main([*arguments, "run_dir=" + str(tmp_path / "b")]) == NOT_FINITE
    [report] = (tmp_path / "b").glob("*/*/*/nonfinite-*.json")
    assert json.loads(report.read_text())["sequences"] == [12, 13]


@pytest.mark.parametrize(
    ("number", "vectorization"),
    [(signal.SIGINT, "auto"), (signal.SIGUSR1, "auto"), (signal.SIGINT, "subprocess"), (signal.SIGHUP, "subprocess")],
)
def test_signals_to_all_write_a_checkpoint_and_end_with_128_and_their_number(tmp_path, number, vectorization):
    command = [sys.executable, "-m", "ntm_rl.agents", "train", CONFIG, *TINY, "total_timesteps=100000000"]
    command += [f"run_dir={tmp_path}", f"env.vectorization={vectorization}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: list(tmp_path.glob("*/*/*/checkpoints/step-*")))
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C and Slurm do
    process.communicate(timeout=120)
    assert process.returncode == 128 + number
    [run] = tmp_path.glob("*/*/*")
    rows = read_table(Path(run, "progress.csv"))[1]
    assert max(run.glob("checkpoints/*")).name == f"step-{int(rows[-1]['time/total_timesteps']):012d}.safetensors"


def test_a_folder_without_permission_ends_a_training_with_code_3(tmp_path, capsys, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.fsync", refused)
    assert train(tmp_path) == CANNOT_WRITE
    assert "cannot be written: Permission denied" in capsys.readouterr().err


class Fragile(gym.Env):
    """Crashes or hangs at the fifth action that is 1, once the file that its argument names exists."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, how: str):
        self.how, self.count = how, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample() * 0 + self.np_random.random(2, np.float32), {}

    def step(self, action):
        self.count += int(action)
        if self.count == 5:
            if self.how == "hang":
                time.sleep(1000)
            os._exit(7)
        return np.zeros(2, np.float32), 1.0, False, False, {}


@pytest.mark.parametrize(("how", "why"), [("crash", "ended with exit code 7"), ("hang", "did not respond within 2 s")])
def test_a_worker_that_crashes_or_hangs_is_named_with_its_seed_and_last_action(how, why):
    workers = WorkerVecEnv([partial(Fragile, how)] * 3, timeout=2, restarts=False)
    workers.seed(40)
    workers.reset()
    try:
        for step in range(4):
            workers.step(np.array([step % 2, 1, 0]))
        with pytest.raises(
            WorkerError, match=f"environment 1 {why}; its seed was {spawn_seed(40, 1)}, its last action 1;"
        ):
            workers.step(np.array([0, 1, 0]))
    finally:
        began = time.monotonic()
        workers.close()
    assert time.monotonic() - began < 10
    assert not any(process.is_alive() for process in workers.processes)


@pytest.mark.parametrize("how", ["crash", "hang"])
def test_a_worker_is_started_anew_where_that_is_asked_for(how, capsys):
    workers = WorkerVecEnv([partial(Fragile, how)] * 2, timeout=2, restarts=True)
    workers.seed(40)
    first = workers.reset()
    for _ in range(4):
        before, rewards, dones, _ = workers.step(np.array([0, 1]))
        assert not dones.any() and rewards.tolist() == [1, 1]
    after, rewards, dones, infos = workers.step(np.array([0, 1]))
    assert dones.tolist() == [False, True] and rewards.tolist() == [1, 0]
    assert infos[1]["TimeLimit.truncated"] and not infos[0]["TimeLimit.truncated"]
    np.testing.assert_array_equal(infos[1]["terminal_observation"], before[1])
    assert not np.array_equal(after[1], first[1]) and np.any(after[1])  # a new episode of another seed
    assert "environment 1" in capsys.readouterr().err
    workers.step(np.array([0, 1]))
    workers.close()
