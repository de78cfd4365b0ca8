"""Checkpoints of real trainings."""

import copy
import json
import random

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from ntm_rl import envs as ours
from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.policy.files import load_checkpoint_agent
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.checkpoints import load_checkpoint, save_checkpoint
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors, write_tensors
from ntm_rl.errors import InputError

SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=dict(pi=[8], vf=[8]))


def make_model(seed: int = 0, hidden: int = 8, normalize: bool = True) -> MemoryPPO:
    env = make_vec_env("CartPole-v1", 2, seed=seed)
    kwargs = {**SMALL, "core_kwargs": {**SMALL["core_kwargs"], "hidden_size": hidden}}
    return MemoryPPO(
        "MlpNtmPolicy",
        VecNormalize(env) if normalize else env,
        learning_rate=3e-4,
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
    assert all(map(torch.equal, other.policy.return_scale.buffers(), trained.policy.return_scale.buffers()))
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
    with pytest.raises(StorageError, match=r"tensor 'core.weight_input' has shape \[32, 8\], must be \[36, 9\]"):
        load_checkpoint(path, other)
    assert torch.equal(weights(other), before) and other.num_timesteps == 0


class Blink(gym.Env):
    """A picture and a number, four steps long."""

    observation_space = spaces.Dict({"image": spaces.Box(0, 255, (3, 36, 36), np.uint8), "n": spaces.Box(-9, 9, (1,))})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), float(action), self.steps == 4, False, {"is_success": bool(action)}

    def _observe(self):
        return {"image": np.full((3, 36, 36), self.steps, np.uint8), "n": np.array([self.steps], np.float32)}


def test_a_checkpoint_of_an_older_format_is_one_clear_error(trained, tmp_path):
    path = save_checkpoint(trained, tmp_path)
    tensors, document = read_tensors(path)
    write_tensors(path, tensors, {**document, "format": 2})
    expected = r"safetensors: 'checkpoint' of format 2, but this version of ntm-rl reads format 3; .*train again$"
    with pytest.raises(StorageError, match=expected):
        load_checkpoint(path, trained)


def test_shared_image_networks_and_dict_statistics_come_back(tmp_path):
    def make() -> MemoryPPO:
        env = VecNormalize(make_vec_env(Blink, 2), norm_obs_keys=["n"])
        return MemoryPPO("MultiInputNtmPolicy", env, n_steps=8, batch_size=16, n_epochs=1, policy_kwargs=SMALL)

    trained, other = make().learn(32), make()
    assert len(trained.ep_success_buffer) > 0
    load_checkpoint(save_checkpoint(trained, tmp_path), other)
    for name, tensor in trained.policy.state_dict().items():
        assert torch.equal(other.policy.state_dict()[name], tensor), name
    assert other.env.obs_rms.keys() == {"n"} and other.env.obs_rms["n"].count == trained.env.obs_rms["n"].count
    assert list(other.ep_success_buffer) == list(trained.ep_success_buffer)
    other.learn(16, reset_num_timesteps=False)


def test_sb3_contribs_own_recurrent_policy_is_kept_too(tmp_path):
    def make(seed: int) -> RecurrentPPO:
        kwargs = dict(lstm_hidden_size=4, net_arch=[4])
        return RecurrentPPO("MlpLstmPolicy", "CartPole-v1", 16, 16, n_epochs=1, seed=seed, policy_kwargs=kwargs)

    trained, other = make(0).learn(32), make(1)
    load_checkpoint(save_checkpoint(trained, tmp_path), other)
    assert torch.equal(weights(other), weights(trained))


def test_the_checkpoint_just_written_outlives_damaged_ones_of_later_steps(trained, tmp_path):
    for steps in (100, 300):
        trained.num_timesteps = steps
        save_checkpoint(trained, tmp_path, keep=1)
    (tmp_path / "step-000000000300.safetensors").write_bytes(b"damaged")
    trained.num_timesteps = 200  # resumed from 100, since 300 was of no use
    newest = save_checkpoint(trained, tmp_path, keep=1)
    with pytest.warns(UserWarning, match="skipped a checkpoint"):
        assert latest_checkpoint(tmp_path) == newest


def test_what_killed_processes_left_is_tidied_up(trained, tmp_path):
    (tmp_path / ".step-000000000001.safetensors.123.tmp").write_bytes(b"half")
    newest = save_checkpoint(trained, tmp_path)
    assert list(tmp_path.iterdir()) == [newest]


def test_keeping_no_checkpoint_is_refused(trained, tmp_path):
    with pytest.raises(InputError, match="keep = 0: must be at least 1"):
        save_checkpoint(trained, tmp_path, keep=0)


@pytest.mark.parametrize("saved_normalized", [True, False])
def test_normalisation_that_was_switched_on_or_off_is_an_error(tmp_path, saved_normalized):
    path = save_checkpoint(make_model(normalize=saved_normalized), tmp_path)
    with pytest.raises(StorageError, match=r"tensor 'observations.observation.\w+'.*was the config changed"):
        load_checkpoint(path, make_model(normalize=not saved_normalized))


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
        lambda tensors, document: tensors.update({"optimizer.0.exp_avg": torch.zeros(())}),
        lambda tensors, document: tensors["optimizer.0.exp_avg"].fill_(float("nan")),
        lambda tensors, document: tensors.pop("optimizer.0.exp_avg"),
        lambda tensors, document: tensors.update({"optimizer.²3.exp_avg": torch.zeros(1)}),
        lambda tensors, document: tensors["policy.core.bias"].fill_(float("inf")),
        lambda tensors, document: tensors.update({"../../x": torch.zeros(1)}),
        lambda tensors, document: tensors.update({"random.torch": torch.zeros(5056, dtype=torch.uint8)}),
        lambda tensors, document: tensors.update({"random.cpu": torch.zeros(1)}),
        lambda tensors, document: tensors["normalizer.return.var"].fill_(float("nan")),
        lambda tensors, document: document["random"]["numpy"]["state"].update(pos=10**6),
        lambda tensors, document: document["random"]["numpy"]["state"]["key"].__setitem__(0, 2**40),
        lambda tensors, document: document["random"]["python"][1].__setitem__(0, 2**70),
        lambda tensors, document: document.update(num_timesteps=float("inf")),
        lambda tensors, document: document.update(n_updates=-1),
        lambda tensors, document: document.update(episodes=[{"r": 1}]),
        lambda tensors, document: document["param_groups"][0].update(lr="fast"),
        lambda tensors, document: document["param_groups"][0].update(lr=float("nan")),
        lambda tensors, document: document["param_groups"][0].update(betas=[0.9]),
        lambda tensors, document: document["param_groups"][0].update(surprise=1),
        lambda tensors, document: document["param_groups"][0].update(maximize=None),
    ],
)
def test_a_well_formed_file_with_wrong_content_is_one_error_and_changes_nothing(trained, tmp_path, spoil):
    tensors, document = read_tensors(save_checkpoint(trained, tmp_path))
    document = copy.deepcopy(document)
    spoil(tensors, document)
    write_tensors(tmp_path / "bad.safetensors", tensors, document)
    other = make_model(seed=3)
    before = weights(other)
    rolled = random.getstate(), np.random.get_state()[2], torch.get_rng_state()
    with pytest.raises(StorageError, match=r"bad\.safetensors"):
        load_checkpoint(tmp_path / "bad.safetensors", other)
    assert torch.equal(weights(other), before) and other.num_timesteps == 0 and not other.policy.optimizer.state
    assert rolled[:2] == (random.getstate(), np.random.get_state()[2]) and torch.equal(rolled[2], torch.get_rng_state())


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return read_tensors(save_checkpoint(make_model().learn(32), tmp_path_factory.mktemp("content")))


PATHS = [
    (),
    *[(key,) for key in ("format", "kind", "num_timesteps", "n_updates", "episode_num", "episodes", "successes")],
    *[("param_groups",), ("param_groups", 0), ("random",), ("random", "python"), ("random", "numpy"), ("extra",)],
    *[("param_groups", 0, key) for key in ("lr", "betas", "eps", "weight_decay", "fused", "maximize", "params", "new")],
    *[("random", "python", index) for index in (0, 1, 2)],
    *[("random", "python", 1, index) for index in (0, 623, 624)],
    *[("random", "numpy", key) for key in ("bit_generator", "gauss", "has_gauss", "state")],
    *[("random", "numpy", "state", key) for key in ("pos", "key")],
]
VALUES = [None, True, -1, 0, 2**40, 2**70, 1.5, float("inf"), float("nan"), "x", "0.1", [], {}, [1], [[]], {"a": 1}]


@pytest.mark.parametrize("place", PATHS, ids=str)
def test_any_altered_value_is_one_clear_error_or_can_be_trained_on(content, tmp_path, place):
    for value in VALUES:
        load_altered(content, tmp_path, place, value)


def load_altered(content, tmp_path, place, value) -> None:
    tensors, document = content[0], {"": json.loads(json.dumps(content[1]))}
    spot = document
    for key in ("", *place)[:-1]:
        spot = spot[key]
    spot[("", *place)[-1]] = value
    write_tensors(tmp_path / "bad.safetensors", tensors, document[""])
    model, generators = make_model(), (random.getstate(), np.random.get_state())
    try:
        load_checkpoint(tmp_path / "bad.safetensors", model)
    except StorageError as error:
        assert "bad.safetensors" in str(error)
    else:
        model.num_timesteps %= 1000
        model.learn(32, reset_num_timesteps=False)
        random.gauss(), np.random.normal()
    finally:
        random.setstate(generators[0]), np.random.set_state(generators[1])


@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_a_checkpoints_agent_has_the_level_that_the_curricula_reached(tmp_path, vectorization):
    kwargs = {"curriculum": "lookahead", "bits": 1, "max_length": 9}
    env = ours.make_vec_env(ours.EnvSettings("ntm_rl/Copy-v0", kwargs, vectorization=vectorization), 2, 0)
    model = MemoryPPO("MlpNtmPolicy", env, n_steps=4, batch_size=4, policy_kwargs={"core": "lstm"}).learn(8)
    for curriculum, level in zip(curricula(model.get_env()), (3, 4), strict=False):
        curriculum.restore(level, [])
    assert load_checkpoint_agent(save_checkpoint(model, tmp_path)).card["extra"] == {"timesteps": 8, "level": 3}


def test_a_checkpoint_of_a_policy_of_the_users_own_is_kept_without_an_agent(tmp_path):
    class Mine(MlpNtmPolicy):
        pass

    model = MemoryPPO(Mine, "CartPole-v1", n_steps=4, batch_size=4, policy_kwargs={"core": "lstm"}).learn(4)
    path = save_checkpoint(model, tmp_path)
    load_checkpoint(path, model)
    with pytest.raises(StorageError, match="does not describe its agent"):
        load_checkpoint_agent(path)
