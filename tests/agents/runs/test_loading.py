"""Agents and networks of runs: which one is loaded, with what, and where it computes."""

import shutil

import numpy as np
import pytest
import torch

import ntm_rl.agents
from ntm_rl.agents import load_run_agent
from ntm_rl.agents.runs import loading
from ntm_rl.agents.runs.loading import available_device, load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.storage.tensors import read_tensors, write_tensors
from ntm_rl.agents.training import train
from ntm_rl.errors import InputError
from small_trainings import TINY_LSTM, TINY_PPO, train_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    rollouts = ("ppo.n_steps=16", "ppo.sequence_length=16", "ppo.stats_window_size=1", "checkpoint.every=32")
    sizes = (*TINY_PPO, *TINY_LSTM, *rollouts, "total_timesteps=96")
    return train_run("control/cartpole_no_velocity", tmp_path_factory.mktemp("runs"), *sizes)


@pytest.fixture
def run(finished, tmp_path) -> Run:
    return Run.open(shutil.copytree(finished.path, tmp_path / "run"))


def say_step(run: Run, step: int) -> None:
    """Makes a run's agent one that was written out at another step."""
    path = run.agent / "weights.safetensors"
    tensors, card = read_tensors(path)
    card["extra"]["timesteps"] = step
    write_tensors(path, tensors, card)


def edit(run: Run, old: str, new: str) -> None:
    text = run.config_file.read_text()
    assert old in text
    run.config_file.write_text(text.replace(old, new))


def acts(agent) -> tuple[np.ndarray, np.ndarray]:
    """Three steps on fixed observations."""
    observations, state, actions = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32), None, []
    for each in observations:
        action, state = agent.predict(each, state, deterministic=True)
        actions.append(action)
    return np.array(actions), state[0]


def test_a_checkpoint_gives_the_agent_that_the_training_wrote_out_at_the_same_step(run):
    written = load_run_agent(run)
    assert (written.origin.step, written.origin.is_checkpoint) == (96, False)
    assert "step 96, saved by the training" in str(written.origin)
    shutil.rmtree(run.agent)
    unfinished = load_run_agent(run.path)
    assert (unfinished.origin.step, unfinished.origin.path.name) == (96, "step-000000000096.safetensors")
    assert "step 96, from a checkpoint" in str(unfinished.origin)
    assert unfinished.statistics.keys() == written.statistics.keys() != set()
    for found, expected in zip(acts(unfinished), acts(written), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("step", "is_checkpoint"), [(64, True), (96, False), (128, False)])
def test_the_last_agent_is_the_newer_one(run, step, is_checkpoint):
    say_step(run, step)
    assert load_run_agent(run).origin.is_checkpoint == is_checkpoint


def test_a_damaged_newer_checkpoint_is_named_and_the_next_one_taken(run):
    say_step(run, 40)
    newest = run.checkpoints / "step-000000000096.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="skipped a checkpoint: .*000096.safetensors: damaged"):
        assert load_run_agent(run).origin.step == 64


def test_the_best_agent_says_its_return(run):
    origin = load_run_agent(run, best=True).origin
    assert origin.path == run.best and 0 < origin.step <= 96 and origin.mean_return >= 8
    shutil.rmtree(run.best)
    with pytest.raises(InputError, match="no best agent yet"):
        load_run_agent(run, best=True)


def test_neither_the_environment_nor_sizes_of_the_training_matter(run):
    edit(run, "id: CartPole-v1", "id: nowhere:Gone-v0")
    edit(run, "n_envs: 2", "n_envs: 64")
    edit(run, "batch_size: 32", "batch_size: 1024")
    shutil.rmtree(run.agent)
    assert load_run_agent(run).origin.step == 96


def test_a_run_without_any_agent_says_so(run):
    shutil.rmtree(run.agent)
    shutil.rmtree(run.checkpoints)
    with pytest.raises(InputError, match="no usable checkpoint, and no agent"):
        load_run_agent(run)


def test_a_checkpoint_that_does_not_describe_its_agent_says_the_way_out(run):
    shutil.rmtree(run.agent)
    path = run.checkpoints / "step-000000000096.safetensors"
    tensors, document = read_tensors(path)
    write_tensors(path, tensors, {**document, "agent": None})
    with pytest.raises(InputError, match=r"does not describe its agent.*ntm-rl resume"):
        load_run_agent(run)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
def test_a_run_of_another_machine_plays_on_the_cpu_with_a_note(run, device, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    edit(run, "device: auto", f"device: {device}")
    assert load_run_agent(run).policy.device.type == "cpu"
    assert f"note: device = '{device}' of the run's config is not available" in capsys.readouterr().err


def test_devices_that_are_there_are_taken_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [str(available_device(name)) for name in ("cuda", "cuda:1", "cuda:2", "cpu", "auto")]
    assert found == ["cuda", "cuda:1", "cpu", "cpu", "cuda"]
    assert capsys.readouterr().err.count("is not available") == 1


def test_a_supervised_checkpoint_gives_the_network_that_the_training_wrote_out(tmp_path):
    overrides = ["total_sequences=40", "log_every=20", "validation.every=20", "validation.sequences=4"]
    overrides += ["validation.longer=[]", "memory.ntm.slots=8", "wandb=disabled", f"run_dir={tmp_path}"]
    run = Run.open(train(load_settings("algorithmic/copy", overrides), "copy", show_progress=False).run)
    written, origin = load_run_network(run)
    assert (origin.step, origin.is_checkpoint) == (40, False)
    shutil.rmtree(run.agent)
    unfinished, origin = load_run_network(run)
    assert (origin.step, origin.is_checkpoint) == (40, True)
    for (name, expected), (_, found) in zip(written.named_parameters(), unfinished.named_parameters(), strict=True):
        assert torch.equal(expected, found), name
    with pytest.raises(InputError, match="a supervised run plays no episodes and has no agent"):
        load_run_agent(run)


def test_users_find_the_loader_beside_the_policies():
    assert ntm_rl.agents.load_run_agent is loading.load_run_agent
    assert ntm_rl.agents.RunAgent is loading.RunAgent
    assert set(ntm_rl.agents.__all__) >= {"load_agent", "save_agent", "load_run_agent", "LoadedAgent"}
