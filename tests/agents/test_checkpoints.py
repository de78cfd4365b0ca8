"""Checkpoints and exported agents of real trainings."""

import copy
import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList, ConvertCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.callbacks import BestAgentCallback, CheckpointCallback, StopOnSignal
from ntm_rl.agents.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from ntm_rl.agents.export import load_agent, save_agent
from ntm_rl.agents.policies import MlpNtmPolicy
from ntm_rl.agents.storage import StorageError, read_tensors, write_tensors
from ntm_rl.errors import InputError

SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=dict(pi=[8], vf=[8]))


def make_model(seed: int = 0, hidden: int = 8, normalize: bool = True) -> MemoryPPO:
    env = make_vec_env("CartPole-v1", 2, seed=seed)
    kwargs = {**SMALL, "core_kwargs": {**SMALL["core_kwargs"], "hidden_size": hidden}}
    return MemoryPPO(
        "MlpNtmPolicy",
        VecNormalize(env) if normalize else env,
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        seed=seed,
        policy_kwargs=kwargs,
    )


def weights(model: MemoryPPO) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()


@pytest.fixture
def trained() -> MemoryPPO:
    return make_model().learn(128)


def test_a_checkpoint_brings_everything_back(trained, tmp_path):
    path = save_checkpoint(trained, tmp_path, extra={"best": 1.5})
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    other = make_model(seed=9)
    assert load_checkpoint(path, other) == {"best": 1.5}
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    assert torch.equal(weights(other), weights(trained))
    assert (other.num_timesteps, other._n_updates) == (128, trained._n_updates)
    assert [episode["r"] for episode in other.ep_info_buffer] == [episode["r"] for episode in trained.ep_info_buffer]
    ours, theirs = (model.policy.optimizer.state_dict() for model in (other, trained))
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in theirs["state"].items():
        assert all(torch.equal(ours["state"][index][key], value) for key, value in state.items())
    np.testing.assert_array_equal(other.env.obs_rms.mean, trained.env.obs_rms.mean)
    assert other.env.ret_rms.var == trained.env.ret_rms.var
    other.learn(32, reset_num_timesteps=False)
    assert other.num_timesteps == 160


def test_only_the_newest_are_kept_and_a_damaged_one_is_named_and_skipped(trained, tmp_path):
    for steps in (100, 200, 300):
        trained.num_timesteps = steps
        newest = save_checkpoint(trained, tmp_path, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"step-{s:012d}.safetensors" for s in (200, 300)]
    newest.write_bytes(newest.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=r"skipped a checkpoint: .*step-000000000300.safetensors: damaged"):
        assert latest_checkpoint(tmp_path).name == "step-000000000200.safetensors"


def test_no_checkpoint_at_all_is_an_error_that_says_when_there_would_be_one(tmp_path):
    with pytest.raises(InputError, match=r"no usable checkpoint.*checkpoint.every"):
        latest_checkpoint(tmp_path / "checkpoints")


def test_a_full_disk_keeps_the_old_checkpoint(trained, tmp_path, monkeypatch):
    old = save_checkpoint(trained, tmp_path, keep=1)
    trained.num_timesteps += 1
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left on device"):
        save_checkpoint(trained, tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    read_tensors(old)


def test_a_checkpoint_of_another_network_changes_nothing(trained, tmp_path):
    path = save_checkpoint(trained, tmp_path)
    other = make_model(seed=3, hidden=9)
    before = weights(other)
    with pytest.raises(StorageError, match=r"tensor 'core.weight_input' has shape \[32, 4\], must be \[36, 4\]"):
        load_checkpoint(path, other)
    assert torch.equal(weights(other), before) and other.num_timesteps == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, document: document.update(kind="agent"),
        lambda tensors, document: document.update(random={"python": [], "numpy": {}}),
        lambda tensors, document: document.update(num_timesteps="many"),
        lambda tensors, document: document.update(param_groups=[]),
        lambda tensors, document: tensors.pop("random.torch"),
        lambda tensors, document: tensors.update({"optimizer.999.step": torch.zeros(1)}),
        lambda tensors, document: tensors.update({"optimizer.0.exp_avg": torch.zeros(1)}),
    ],
)
def test_a_well_formed_file_with_wrong_content_is_one_error_and_changes_nothing(trained, tmp_path, spoil):
    tensors, document = read_tensors(save_checkpoint(trained, tmp_path))
    document = copy.deepcopy(document)
    spoil(tensors, document)
    write_tensors(tmp_path / "bad.safetensors", tensors, document)
    other = make_model(seed=3)
    before = weights(other)
    with pytest.raises(StorageError, match=r"bad\.safetensors"):
        load_checkpoint(tmp_path / "bad.safetensors", other)
    assert torch.equal(weights(other), before)


def test_an_exported_agent_acts_as_the_model_did_on_the_environments_own_observations(trained, tmp_path):
    save_agent(trained.policy, tmp_path / "agent", trained.get_vec_normalize_env(), {"env": "CartPole-v1"})
    agent = load_agent(tmp_path / "agent", "cpu")
    obs = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    state = ours = None
    for _ in range(3):
        expected, state = trained.predict(trained.env.normalize_obs(obs), state, deterministic=True)
        found, ours = agent.predict(obs, ours, deterministic=True)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(ours[0], state[0], rtol=1e-6)
    assert json.loads((tmp_path / "agent" / "card.json").read_text()) == agent.card
    assert agent.card["policy"] == "MlpNtmPolicy" and agent.card["extra"] == {"env": "CartPole-v1"}


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("core", ["ntm", "lstm", "gru"])
def test_every_core_and_critic_is_exported(core, critic, tmp_path):
    kwargs = dict(core=core, core_kwargs=dict(hidden_size=7), critic=critic, activation_fn=torch.nn.ReLU)
    policy = MlpNtmPolicy(spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 3]), lambda _: 0.1, **kwargs)
    save_agent(policy, tmp_path)
    loaded = load_agent(tmp_path, "cpu").policy
    assert loaded.action_space == policy.action_space and loaded.activation_fn is torch.nn.ReLU
    for (name, expected), (_, found) in zip(policy.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(expected, found), name


def test_what_no_card_can_express_is_refused_when_saving(tmp_path):
    class Mine(torch.nn.Tanh):
        pass

    policy = MlpNtmPolicy(spaces.Discrete(2), spaces.Discrete(2), lambda _: 0.1, activation_fn=Mine, **SMALL)
    with pytest.raises(InputError, match=r"activation_fn = Mine: a card can only name Tanh.*model.save"):
        save_agent(policy, tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, card: card.update(kind="checkpoint"),
        lambda tensors, card: card.update(policy="os.system"),
        lambda tensors, card: card["arguments"].update(activation_fn={"class": "Popen"}),
        lambda tensors, card: card["arguments"].update(core_kwargs={"hidden_size": 10**6, "slots": 10**6}),
        lambda tensors, card: card["arguments"].update(surprise=1),
        lambda tensors, card: card.pop("action_space"),
        lambda tensors, card: tensors["policy.core.bias"].fill_(float("nan")),
        lambda tensors, card: tensors.pop("policy.core.bias"),
    ],
)
def test_hostile_or_broken_agents_are_one_clear_error(trained, tmp_path, spoil):
    save_agent(trained.policy, tmp_path)
    tensors, card = read_tensors(tmp_path / "weights.safetensors")
    spoil(tensors, card)
    write_tensors(tmp_path / "weights.safetensors", tensors, card)
    with pytest.raises(StorageError, match=r"weights\.safetensors"):
        load_agent(tmp_path, "cpu")


def test_callbacks_save_when_due_the_best_and_on_a_signal(tmp_path):
    model = make_model(normalize=False)
    best = BestAgentCallback(tmp_path / "best", episodes=3)
    checkpoints = CheckpointCallback(tmp_path / "checkpoints", every=64, keep=2, best=best)
    stop = StopOnSignal(checkpoints)

    def interrupt(local_variables, _):
        if local_variables["self"].num_timesteps == 5 * 32 + 8:
            signal.raise_signal(signal.SIGTERM)
        return True

    with stop:
        model.learn(10_000, CallbackList([checkpoints, best, stop, ConvertCallback(interrupt)]))
    assert stop.received is not None
    steps = [int(path.stem.removeprefix("step-")) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == [128, 192]  # at 64 too, which two newer ones replaced; 192 is where the rollout under way ended
    assert best.best > 0
    assert load_agent(tmp_path / "best", "cpu").card["extra"]["mean_return"] == best.best
    assert load_checkpoint(tmp_path / "checkpoints" / "step-000000000192.safetensors", model) == {"best": best.best}


def test_folder_arguments_are_paths(tmp_path: Path):
    with pytest.raises(StorageError, match=r"weights\.safetensors: no such file"):
        load_agent(tmp_path / "nothing")
