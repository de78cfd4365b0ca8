"""What a training needs is looked at before anything of it is created, through the command line."""

import json
import os
import sys
from copy import deepcopy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from ntm_rl import MemoryPPO
from ntm_rl.agents.cli.exit_codes import BAD_INPUT, ENVIRONMENT_FAILED
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.policy.files import load_agent, save_agent
from ntm_rl.agents.policy.policies import policy_class_for
from ntm_rl.agents.ppo.probe import Probe
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.sb3.seeding import spawn_seed
from ntm_rl.errors import InputError

TINY = ["n_envs=2", "total_timesteps=64", "ppo.n_steps=16", "ppo.sequence_length=16", "ppo.batch_size=32"]
TINY += ["ppo.n_epochs=1", "core=lstm", "memory.lstm.hidden_size=8", "threads=1", "wandb=disabled"]
SEEN = np.zeros(3, np.float32)
BOX, IMAGE = spaces.Box(0, 1, (2,)), spaces.Box(0, 255, (36, 36, 3), np.uint8)
NAMES = ["", "a.b", "keys", "items", "pop", "values", "update", "forward", "training", "part 0", "x y", "observation"]


class Show(gym.Env):
    """Shows samples of a space, or always the same; episodes last six steps."""

    def __init__(self, observation_space=BOX, always=None, close=None):
        self.observation_space, self.action_space = deepcopy(observation_space), spaces.Discrete(2)
        self.always, self.closing = always, close

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.count = 0
        return self.look(), {}

    def look(self):
        return self.observation_space.sample() if self.always is None else self.always

    def step(self, action):
        self.count += 1
        return self.look(), 1.0, False, self.count == 6, {}

    def close(self):
        if self.closing:
            raise self.closing


class Failing(Show):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def step(self, action):
        if self.count == 4:
            raise self.error
        return super().step(action)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, threads = dict(gym.registry), torch.get_num_threads()
    Path("my.yaml").write_text("env:\n  id: Mine-v0\n")
    yield
    torch.set_num_threads(threads)
    gym.registry.clear()
    gym.registry.update(before)


def train(capsys, make, *overrides) -> tuple[int, str, str]:
    gym.register("Mine-v0", entry_point=make)
    code = main(["train", "my.yaml", *TINY, *overrides, "--json"])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, ()),
        spaces.Box(0, 9, (), np.int64),
        spaces.Dict(a=spaces.Box(0, 1, ()), b=spaces.Discrete(3)),
        spaces.Dict({name: BOX for name in NAMES}),
        spaces.Dict({"keys": IMAGE, "a.b": BOX}),
        spaces.Box(-1, 1, (3,), np.float16),
        spaces.Box(0, 900, (3,), np.uint16),
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_every_space_that_is_accepted_trains_and_its_agent_is_saved_and_plays(capsys, space):
    code, out, _ = train(capsys, lambda: Show(space))
    assert code == 0
    assert main(["evaluate", json.loads(out)["run"], "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_return"] == 6


@pytest.mark.parametrize("value", [0.5, [0.5], np.array(0.5), np.array([[0.5]])], ids=repr)
def test_numbers_for_a_box_of_one_element_train_the_same(capsys, value):
    assert train(capsys, lambda: Show(spaces.Dict(hp=spaces.Box(0, 1, (1,))), {"hp": value}))[0] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Show(spaces.Dict({1: BOX})), "its observation 1: the keys of a Dict must be strings"),
        (lambda: Show(spaces.Dict({})), "its observation space Dict() is empty"),
        (
            lambda: Show(spaces.Dict(a=spaces.Box(0, 1, (0,)))),
            "its observation 'a' Box([], [], (0,), float32) must have",
        ),
        (lambda: Show(spaces.Discrete(2**26)), "must have 1 to 33554432 elements"),
        (lambda: Show(BOX, SEEN), "reset returned an observation outside its space: observation has shape (3,)"),
        (lambda: Show(spaces.Text(3)), "observation space Text"),
        (lambda: gym.Env(), "its observation_space is None; its constructor must set one"),
    ],
)
def test_what_cannot_be_trained_is_one_line_code_2_and_no_folder(capsys, make, message):
    code, out, error = train(capsys, make)
    assert (code, out) == (BAD_INPUT, "")
    last = error.splitlines()[-1]
    assert last.startswith("env.id = 'Mine-v0': ") and message in last and "Traceback" not in error
    assert not Path("runs").exists()


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "gone"), ValueError("boom")], ids=repr)
def test_what_an_environment_raises_in_mid_training_is_code_5_with_its_line(capsys, error):
    code, out, text = train(capsys, lambda: Failing(error))
    assert (code, out) == (ENVIRONMENT_FAILED, "")
    assert f"environment 0, step 5: step raised an error: {__file__}, line " in text
    assert f", in step: {type(error).__name__}" in text and "Traceback" not in text


@pytest.fixture
def module(monkeypatch):
    """Writes a module into the current folder, which no other test imports."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    name = f"coins_{os.getpid()}"

    def write(step: str) -> str:
        Path(f"{name}.py").write_text(
            "import gymnasium as gym, numpy as np\n"
            "class Coin(gym.Env):\n"
            "    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)\n"
            "    def reset(self, *, seed=None, options=None): self.t = 0; return np.zeros(3, np.float32), {}\n"
            f"    def step(self, action):\n        self.t += 1\n        {step}\n"
            "        return np.zeros(3, np.float32), 1.0, False, False, {}\n"
        )
        return name

    yield write
    sys.modules.pop(name, None)


def test_what_an_environment_raises_in_a_process_of_its_own_keeps_its_line(capsys, module):
    overrides = [f"env.id={module('if self.t == 4: raise BrokenPipeError')}:Coin", "env.vectorization=subprocess"]
    assert main(["train", "my.yaml", *TINY, *overrides]) == ENVIRONMENT_FAILED
    last = capsys.readouterr().err.splitlines()[-1]
    assert "environment 0, step 4: step raised an error: " in last and ".py, line 7, in step: BrokenPipeError" in last
    assert f"its seed was {spawn_seed(0, 0)}, its last action" in last and "env.restart_workers = true" in last


def test_what_fails_in_close_leaves_the_result_and_code_0(capsys):
    with pytest.warns(UserWarning, match=r"env.id = 'Mine-v0': close raised an error: .*in close: RuntimeError: no"):
        code, out, _ = train(capsys, lambda: Show(close=RuntimeError("no")))
    assert code == 0 and json.loads(out)["timesteps"] == 64


def test_the_probe_changes_nothing_of_a_seeded_training(capsys, monkeypatch):
    weights = []
    for is_probed in (True, False):
        if not is_probed:
            monkeypatch.setattr("ntm_rl.agents.ppo.trainer.probe_environment", lambda *_: Probe(None, False))
            monkeypatch.setattr("ntm_rl.agents.ppo.trainer.probe_agent", lambda *_: Probe(None, False))
        code, out, _ = train(capsys, Show, "env.normalize_observation=true")
        del gym.registry["Mine-v0"]
        weights.append(read_tensors(Path(json.loads(out)["run"], "agent/weights.safetensors"))[0])
        assert code == 0
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_normalisation_takes_the_boxes_and_leaves_the_rest(capsys):
    gym.register("Mine-v0", entry_point=lambda: Show(spaces.Dict(b=BOX, d=spaces.Discrete(4), i=IMAGE)))
    venv = make_vec_env(EnvSettings("Mine-v0", normalize_observation=True), 2, 0)
    assert list(venv.obs_rms) == ["b"]
    assert venv.reset()["i"].dtype == np.uint8
    model = MemoryPPO(policy_class_for(venv.observation_space), venv, n_steps=8, batch_size=16, device="cpu")
    save_agent(model.policy, Path("agent"), venv)
    assert {name.partition(".")[0] for name in load_agent(Path("agent"), "cpu").statistics} == {"b"}


@pytest.mark.parametrize(
    ("space", "override", "message"),
    [
        (
            BOX,
            "ppo.use_sde=true",
            "ppo.use_sde = True: state-dependent exploration is for Box actions; those of Mine-v0",
        ),
        (BOX, "policy.extractor=impala", "policy.extractor = 'impala'"),
    ],
)
def test_settings_that_do_not_fit_a_space_are_one_line_that_names_both(capsys, space, override, message):
    code, out, error = train(capsys, lambda: Show(space), override)
    assert (code, out) == (BAD_INPUT, "") and message in error.splitlines()[-1]
    assert not Path("runs").exists()


@pytest.mark.parametrize("space", [spaces.Discrete(5), IMAGE])
def test_where_nothing_can_be_normalised_a_training_says_so_and_trains(capsys, space):
    code, _, error = train(capsys, lambda: Show(space), "env.normalize_observation=true")
    assert code == 0 and "normalised by running statistics" not in error


def test_a_single_environment_given_to_the_algorithm_is_looked_at_too():
    class Old(Show):
        def step(self, action):
            return SEEN, 1.0, True, {}

    with pytest.raises(InputError, match=r"^env = Old: step returned 4 values"):
        MemoryPPO("MlpNtmPolicy", Old(), n_steps=8, batch_size=8, device="cpu").learn(8)
    with pytest.raises(ValueError, match=r"^boom") as raised:
        MemoryPPO("MlpNtmPolicy", Failing(ValueError("boom")), n_steps=8, batch_size=8, device="cpu").learn(8)
    assert raised.value.__notes__ == ["env = Failing, step 5: step raised this error"]


@pytest.mark.parametrize("vectorization", ["sync", "subprocess"])
def test_the_users_module_trains_from_its_folder_and_plays_from_elsewhere(
    capsys, monkeypatch, tmp_path, module, vectorization
):
    name = module("pass")
    overrides = [f"env.id={name}:Coin", "env.max_episode_steps=5", f"env.vectorization={vectorization}"]
    assert main(["train", "my.yaml", *TINY, *overrides, "--json"]) == 0
    run = Path(json.loads(capsys.readouterr().out)["run"]).resolve()
    assert f"path: {tmp_path}" in (run / "config.yaml").read_text()
    monkeypatch.chdir("/")
    sys.path[:] = [each for each in sys.path if each != str(tmp_path)]
    sys.modules.pop(name, None)
    assert main(["evaluate", str(run), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_length"] == 5
    assert main(["resume", str(run), "total_timesteps=96", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["timesteps"] == 96
