"""Runs trained on a device: played, exported and resumed there and on a machine without it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecNormalize

from ntm_rl.agents import MemoryPPO, load_agent
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.policy.policies import policy_class_for
from ntm_rl.agents.ppo.checkpoints import load_checkpoint, save_checkpoint
from ntm_rl.agents.runs.loading import load_run_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.agents.training import resume, train
from ntm_rl.cores.registry import core_options
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.making import make_vec_env
from small_trainings import SMALL_NTM, TINY_COPY, TINY_LSTM, TINY_PPO
from stand_in_device import NAME, take_waits

BLOCK = (
    "memory.ntm_block.backend=eager",
    "memory.ntm_block.slots=8",
    "memory.ntm_block.hidden_size=8",
    "memory.ntm_block.width=4",
)
TASK = "popgym-RepeatPreviousEasy-v0"
COPY = (*TINY_COPY, *SMALL_NTM, "watch.every=20")


def train_on(device: torch.device, config: str, folder: Path, *overrides: str) -> Run:
    """Trains on a device; the config of the run says cuda, as a GPU's does."""
    settings = load_settings(config, [*overrides, f"run_dir={folder}", "device=cpu"])
    run = Run.open(train(settings.model_copy(update={"device": str(device)}), "run", show_progress=False).run)
    set_device(run, "cuda")
    return run


def set_device(run: Run, device: str) -> None:
    path = run.path / "config.yaml"
    path.write_text(re.sub(r"(?m)^device: .*$", f"device: {device}", path.read_text()))


@pytest.fixture(params=[BLOCK, TINY_LSTM], ids=["ntm_block", "lstm"])
def run(request, device, tmp_path) -> Run:
    pages = ("watch.every=64", "checkpoint.every=64", "total_timesteps=128")
    return train_on(device, TASK, tmp_path / "runs", *TINY_PPO, *request.param, *pages)


def use(run: Run, *commands: tuple[str, ...]) -> None:
    """Runs commands on a run."""
    for name, *options in commands:
        assert main([name, str(run.path), *options]) == 0, name


def test_a_run_is_played_exported_and_inspected_on_a_machine_without_the_device(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    agent = load_agent(run.agent)
    assert agent.policy.device.type == "cpu"
    agent.predict(np.zeros(1, dtype=np.int64))
    use(run, ("evaluate", "--episodes", "2"))
    if agent.policy.core_name == "lstm":  # others take longer
        use(run, ("record", "--out", str(tmp_path / "a.mp4")), ("inspect",))
        use(run, ("watch", "--out", str(tmp_path / "a.html")), ("export", str(tmp_path / "a.pt2")))
    assert "note: device = 'cuda' of the run's config is not available; using the CPU" in capsys.readouterr().err


def test_a_run_is_played_and_inspected_on_the_device(run, device, tmp_path, monkeypatch):
    monkeypatch.setattr("ntm_rl.agents.runs.loading.available_device", lambda _: device)
    assert load_run_agent(run).policy.device == device
    use(run, ("evaluate", "--episodes", "2"), ("watch", "--out", str(tmp_path / "a.html")))
    if load_run_agent(run).policy.core_name == "lstm":
        use(run, ("record", "--out", str(tmp_path / "a.mp4")), ("inspect",))


def test_a_run_is_resumed_on_another_device(run, device):
    """From the device to the CPU and back, 64 steps each."""
    set_device(run, "cpu")
    for steps, name in ((192, "cpu"), (256, str(device))):
        settings = run.settings().model_copy(update={"device": name, "total_timesteps": steps})
        resume(run, settings, show_progress=False)
        set_device(run, "cpu")
        assert load_run_agent(run).card["extra"]["timesteps"] == steps


def make_model(device: torch.device, core: str, seed: int = 0) -> MemoryPPO:
    env = VecNormalize(make_vec_env(EnvSettings(TASK), 4, seed=seed), norm_obs=False)
    options = {"hidden_size": 8, **({"backend": "eager"} if "backend" in core_options(core) else {})}
    sizes = {"n_steps": 16, "sequence_length": 8, "batch_size": 32, "n_epochs": 2, "learning_rate": 1e-3}
    policy = {"core": core, "core_kwargs": options, "net_arch": [8]}
    kind = policy_class_for(env.observation_space)
    return MemoryPPO(kind, env, seed=seed, device=device, policy_kwargs=policy, **sizes)


def weights(model: MemoryPPO) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().cpu()


@pytest.mark.parametrize("core", ["feedforward", "ntm", "ntm_block", "lstm"])
def test_a_training_resumed_from_a_checkpoint_on_the_device_continues_as_if_never_stopped(core, device, tmp_path):
    model = make_model(device, core).learn(128)
    path = save_checkpoint(model, tmp_path)
    generator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    model.learn(128, reset_num_timesteps=False)
    other = make_model(device, core, seed=9)
    load_checkpoint(path, other)
    assert generator is None or torch.equal(torch.cuda.get_rng_state(device), generator)
    other.learn(128, reset_num_timesteps=False)
    # Some operators of a GPU add in any order.
    tolerance = 0.0 if device.type == NAME or core == "feedforward" else 1e-4
    torch.testing.assert_close(weights(other), weights(model), rtol=tolerance, atol=tolerance)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_the_default_agent_trains_with_compiled_steps_without_a_warning(tmp_path, capsys):
    device = torch.device("cuda", 0)
    run = train_on(device, TASK, tmp_path, *TINY_PPO, "total_timesteps=192", "checkpoint.every=64")
    assert load_run_agent(run, device=device).policy.core_name == "ntm_block"
    assert "runs eagerly" not in capsys.readouterr().err


def copy_trainer(device: torch.device, folder: Path, *overrides: str) -> SupervisedTrainer:
    settings = load_settings("algorithmic/copy", [*COPY, f"run_dir={folder}", "device=cpu", *overrides])
    return SupervisedTrainer(settings.model_copy(update={"device": str(device)}))


@pytest.mark.parametrize("core", [("memory.ntm.backend=eager",), TINY_LSTM], ids=["ntm", "lstm"])
def test_a_supervised_update_is_that_of_the_cpu(core, device, tmp_path):
    overrides = ("optimizer.name=sgd", "batch_size=4", *core)
    trainers = [copy_trainer(each, tmp_path, *overrides) for each in (torch.device("cpu"), device)]
    for _ in range(3):
        expected, found = (trainer.update() for trainer in trainers)
        torch.testing.assert_close(
            [float(each) for each in found], [float(each) for each in expected], rtol=1e-4, atol=0
        )
    pairs = zip(*(trainer.network.parameters() for trainer in trainers), strict=True)
    for expected, found in pairs:
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-5)
    assert abs(trainers[0].validate().bits - trainers[1].validate().bits) < 1e-3


@pytest.mark.parametrize("entropy", [0, 0.1])
def test_a_supervised_update_seldom_waits_for_the_device(entropy, device, tmp_path):
    if device.type != NAME:
        pytest.skip("the stand-in counts")
    trainer = copy_trainer(device, tmp_path, f"optimizer.weighting_entropy={entropy}", "optimizer.name=adam")
    trainer.update()
    take_waits()
    trainer.update()
    assert take_waits() == ["aten::_local_scalar_dense"] * 2  # the cost and the norm of the gradient


def test_a_supervised_run_is_used_and_resumed_on_a_machine_without_the_device(device, tmp_path, monkeypatch):
    run = train_on(device, "algorithmic/copy", tmp_path / "runs", *COPY)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    use(run, ("evaluate",), ("inspect",))
    set_device(run, "cpu")
    for total, name in ((80, "cpu"), (100, str(device))):
        resume(run, run.settings().model_copy(update={"device": name, "total_sequences": total}), show_progress=False)
        set_device(run, "cpu")
