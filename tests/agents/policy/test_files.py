"""Agent files: a loaded agent acts as its model did, and any other content is one clear error."""

import copy
import json
import resource
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.policy.files import load_agent, save_agent
from ntm_rl.agents.policy.policies import POLICIES, MlpNtmPolicy
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors, write_tensors
from ntm_rl.cores.registry import core_names, core_options
from ntm_rl.errors import InputError

SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=dict(pi=[8], vf=[8]))
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


@pytest.fixture(scope="module")
def trained() -> MemoryPPO:
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0))
    return MemoryPPO("MlpNtmPolicy", env, n_steps=16, batch_size=16, n_epochs=1, policy_kwargs=SMALL).learn(64)


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
@pytest.mark.parametrize("core", core_names())
def test_every_core_and_critic_is_exported(core, critic, tmp_path):
    kwargs = dict(core=core, core_kwargs=dict(hidden_size=7), critic=critic, activation_fn=torch.nn.ReLU)
    policy = MlpNtmPolicy(spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 3]), lambda _: 0.1, **kwargs)
    save_agent(policy, tmp_path)
    loaded = load_agent(tmp_path, "cpu").policy
    assert loaded.action_space == policy.action_space and loaded.activation_fn is torch.nn.ReLU
    for (name, expected), (_, found) in zip(policy.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(expected, found), name


def test_an_agent_of_an_older_format_is_one_clear_error(trained, tmp_path):
    save_agent(trained.policy, tmp_path)
    tensors, card = read_tensors(tmp_path / "weights.safetensors")
    write_tensors(tmp_path / "weights.safetensors", tensors, {**card, "format": 2})
    expected = r"weights\.safetensors: 'agent' of format 2, but this version of ntm-rl reads format 3; .*train again$"
    with pytest.raises(StorageError, match=expected):
        load_agent(tmp_path, "cpu")


def test_an_argument_that_no_card_can_express_is_refused_when_saving(tmp_path):
    class Mine(torch.nn.Tanh):
        pass

    policy = MlpNtmPolicy(spaces.Discrete(2), spaces.Discrete(2), lambda _: 0.1, activation_fn=Mine, **SMALL)
    with pytest.raises(InputError, match=r"activation_fn = Mine: a card can only name Tanh.*model.save"):
        save_agent(policy, tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, card: card.update(kind="checkpoint"),
        lambda tensors, card: card.update(format=1),
        lambda tensors, card: card.update(normalization=None),
        lambda tensors, card: card["normalization"].update(clip=-1),
        lambda tensors, card: tensors.update({"statistics.b.mean": tensors["statistics.observation.mean"].clone()}),
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
    save_agent(trained.policy, tmp_path, trained.get_vec_normalize_env())
    tensors, card = read_tensors(tmp_path / "weights.safetensors")
    spoil(tensors, card)
    write_tensors(tmp_path / "weights.safetensors", tensors, card)
    with pytest.raises(StorageError, match=r"weights\.safetensors"):
        load_agent(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("CnnNtmPolicy", IMAGE),
        ("MultiInputNtmPolicy", spaces.Dict({"image": IMAGE, "previous": spaces.Discrete(3)})),
        ("MultiInputNtmPolicy", spaces.Dict(OrderedDict(z=spaces.Box(-1, 1, (2,)), a=spaces.Box(-9, 9, (2,))))),
    ],
)
def test_policies_that_see_images_and_dicts_act_as_before(kind, space, tmp_path):
    policy = POLICIES[kind](space, spaces.Box(-1, 1, (2,)), lambda _: 0.1, **SMALL)
    policy.set_training_mode(False)
    save_agent(policy, tmp_path)
    agent = load_agent(tmp_path, "cpu")
    seen = space.sample()
    obs = {key: np.array([value]) for key, value in seen.items()} if isinstance(seen, dict) else seen[None]
    for deterministic in (True, False):
        torch.manual_seed(0)
        expected, _ = policy.predict(obs, deterministic=deterministic)
        torch.manual_seed(0)
        np.testing.assert_array_equal(agent.predict(obs, deterministic=deterministic)[0], expected)


def test_statistics_of_dict_observations_are_applied_to_their_parts_alone(tmp_path):
    space = spaces.Dict({"a": spaces.Box(-9, 9, (2,)), "image": IMAGE})
    policy = POLICIES["MultiInputNtmPolicy"](space, spaces.Discrete(2), lambda _: 0.1, **SMALL)
    model = MemoryPPO("MlpNtmPolicy", "CartPole-v1", n_steps=16, batch_size=16, policy_kwargs=SMALL)
    normalizer = VecNormalize(model.env, norm_reward=False)
    normalizer.obs_rms = {"a": copy.deepcopy(normalizer.obs_rms)}
    normalizer.obs_rms["a"].mean, normalizer.obs_rms["a"].var = np.array([1.0, 2.0]), np.array([4.0, 9.0])
    save_agent(policy, tmp_path, normalizer)
    agent = load_agent(tmp_path, "cpu")
    image = IMAGE.sample()[None]
    found, _ = agent.predict({"a": np.array([[3.0, 5.0]], np.float32), "image": image}, deterministic=True)
    expected, _ = agent.policy.predict({"a": np.array([[1.0, 1.0]], np.float32), "image": image}, deterministic=True)
    np.testing.assert_array_equal(found, expected)


def test_a_full_disk_keeps_the_old_agent(trained, tmp_path, monkeypatch):
    save_agent(trained.policy, tmp_path, extra={"age": "old"})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left on device"):
        save_agent(trained.policy, tmp_path, extra={"age": "new"})
    assert load_agent(tmp_path, "cpu").card["extra"] == {"age": "old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "weights.safetensors"]


def test_a_class_of_the_users_own_is_refused_when_saving(tmp_path):
    class Mine(MlpNtmPolicy):
        pass

    with pytest.raises(InputError, match=r"policy = Mine: a card can only name MlpNtmPolicy.*model.save"):
        save_agent(Mine(spaces.Discrete(2), spaces.Discrete(2), lambda _: 0.1, **SMALL), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slots", [10**7, 10**9, 10**12])
def test_a_card_that_claims_a_huge_memory_is_refused_before_it_is_made(saved, tmp_path, slots):
    card = copy.deepcopy(saved[1])
    card["arguments"]["core_kwargs"]["slots"] = slots  # no weight of this core depends on it
    write_tensors(tmp_path / "weights.safetensors", saved[0], card)
    with pytest.raises(StorageError, match=r"its memory state of .* numbers exceeds|claims a size of"):
        load_agent(tmp_path, "cpu")


@pytest.mark.parametrize("name", ["slots", "width", "read_heads", "write_heads", "hidden_size", "shift_range"])
@pytest.mark.parametrize("size", [10**9, 2**62])
def test_a_card_that_claims_a_huge_core_is_refused(saved, tmp_path, name, size):
    card = copy.deepcopy(saved[1])
    card["arguments"]["core_kwargs"][name] = size
    write_tensors(tmp_path / "weights.safetensors", saved[0], card)
    with pytest.raises(StorageError, match=r"weights\.safetensors"):
        load_agent(tmp_path, "cpu")


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    save_agent(trained.policy, folder, trained.get_vec_normalize_env(), {"env": "CartPole-v1"})
    return read_tensors(folder / "weights.safetensors")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_altered_card_is_an_agent_that_acts_or_one_clear_error(saved, tmp_path, data):
    card = copy.deepcopy(saved[1])
    spot = card
    while True:
        key = data.draw(st.sampled_from([*spot, "class", "lr_schedule"]))
        if not isinstance(spot.get(key), dict) or data.draw(st.booleans()):
            break
        spot = spot[key]
    values = [None, True, 0, -1, 7, 2**70, 1e300, float("nan"), "x", "MlpNtmPolicy", [], {}, [2**40] * 9, [[]]]
    spot[key] = data.draw(st.sampled_from([*values, {"class": "Tanh"}, {"class": ["x"]}, {"pi": [-1]}]))
    write_tensors(tmp_path / "weights.safetensors", saved[0], card)
    try:
        agent = load_agent(tmp_path, "cpu")
    except StorageError as error:
        assert "weights.safetensors" in str(error)
    else:
        agent.predict(np.zeros((1, 4), np.float32))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_or_altered_agents_are_one_clear_error(saved, tmp_path, data):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, *saved)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"weights\.safetensors: damaged"):
        load_agent(tmp_path, "cpu")


def test_the_folder_may_be_a_path_or_its_name(trained, tmp_path: Path):
    save_agent(trained.policy, str(tmp_path / "agent"))
    assert load_agent(str(tmp_path / "agent"), "cpu").card == load_agent(tmp_path / "agent", "cpu").card
    with pytest.raises(StorageError, match=r"weights\.safetensors: no such file"):
        load_agent(tmp_path / "nothing")


@pytest.mark.parametrize("core", [core for core in core_names() if "layers" in core_options(core)])
@pytest.mark.parametrize("layers", [20_000, 10**6, 2**24, 10**9])
def test_a_card_that_claims_layers_without_weights_costs_no_time(saved, tmp_path, core, layers):
    card = copy.deepcopy(saved[1])
    card["arguments"] |= {"core": core, "core_kwargs": {"layers": layers}}
    write_tensors(tmp_path / "weights.safetensors", saved[0], card)
    began = time.process_time()
    with pytest.raises(StorageError, match=r"more layers than the file has weights for|claims a size of"):
        load_agent(tmp_path, "cpu")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("key", ["observation_space", "action_space"])
def test_a_card_that_claims_a_huge_space_is_refused_before_it_is_made(saved, tmp_path, key):
    card = copy.deepcopy(saved[1])
    card[key] = {"type": "Box", "low": "-1", "high": "1", "shape": [2**25], "dtype": "float64"}
    write_tensors(tmp_path / "weights.safetensors", saved[0], card)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StorageError, match=r"more than 1,048,576 elements"):
        load_agent(tmp_path, "cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the space would take 1.5 GiB


BOX = spaces.Box(-1, 1, (2,))
OBSERVED = {
    **{
        f"box {dtype}": spaces.Box(0, 1, (3,), np.dtype(dtype).type)
        for dtype in (
            "bool",
            "int8",
            "uint8",
            "int16",
            "uint16",
            "int32",
            "uint32",
            "int64",
            "uint64",
            "float16",
            "float32",
            "float64",
        )
    },
    "box of one number": spaces.Box(-1, 1, (1,)),
    "box 2d": spaces.Box(-1, 1, (3, 2)),
    "unbounded": spaces.Box(-np.inf, np.inf, (3,)),
    "unbounded integers": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(3),
    "dict": spaces.Dict(b=spaces.Discrete(2), a=BOX, c=spaces.MultiBinary(2)),
}


@pytest.mark.parametrize("space", OBSERVED.values(), ids=OBSERVED)
def test_every_space_that_a_policy_reads_is_written_and_read(space, tmp_path):
    kind = "MultiInputNtmPolicy" if isinstance(space, spaces.Dict) else "MlpNtmPolicy"
    policy = POLICIES[kind](space, spaces.Discrete(2), lambda _: 0.1, **SMALL)
    save_agent(policy, tmp_path)
    assert load_agent(tmp_path, "cpu").policy.observation_space == space


ACTED = {
    **{
        f"box {dtype}": spaces.Box(0, 1, (2,), np.dtype(dtype).type)
        for dtype in ("bool", "int8", "uint8", "int64", "float16", "float32", "float64")
    },
    "box of different bounds": spaces.Box(np.float32([-1, -9]), np.float32([2, 0.1])),
    "box 2d": spaces.Box(-1, 1, (2, 2)),
    "discrete": spaces.Discrete(3, dtype=np.int32),
    "multidiscrete": spaces.MultiDiscrete([2, 3], dtype=np.int32),
    "multibinary": spaces.MultiBinary(3),
}


@pytest.mark.parametrize("space", ACTED.values(), ids=ACTED)
def test_every_space_that_a_policy_acts_in_is_written_and_read(space, tmp_path):
    save_agent(MlpNtmPolicy(BOX, space, lambda _: 0.1, **SMALL), tmp_path)
    assert load_agent(tmp_path, "cpu").policy.action_space == space


@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("options", [{}, {"squash_output": True}, {"use_expln": True}, {"full_std": False}])
def test_agents_with_state_dependent_exploration_are_written_and_read(critic, options, tmp_path):
    policy = MlpNtmPolicy(BOX, BOX, lambda _: 0.1, use_sde=True, critic=critic, **SMALL, **options)
    policy.set_training_mode(False)
    save_agent(policy, tmp_path)
    loaded = load_agent(tmp_path, "cpu").policy
    assert loaded.use_sde and torch.equal(loaded.log_std, policy.log_std)
    observations = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    expected, _ = policy.predict(observations, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    assert torch.distributions.Distribution._validate_args  # as it was before


def test_state_dependent_exploration_has_the_deviation_of_the_file(tmp_path):
    policy = MlpNtmPolicy(BOX, BOX, lambda _: 0.1, use_sde=True, **SMALL)
    with torch.no_grad():
        policy.log_std.fill_(-40)
    save_agent(policy, tmp_path)
    loaded, observations = load_agent(tmp_path, "cpu"), np.ones((4, 2), np.float32)
    (sampled, _), (mean, _) = (loaded.predict(observations, deterministic=each) for each in (False, True))
    np.testing.assert_allclose(sampled, mean, atol=1e-6)
