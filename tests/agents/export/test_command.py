"""`ntm-rl export`: the guide's example without torch, metadata, and invalid input in one line."""

import json
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import onnx
import pytest
import torch

from command_line import as_json, done, refused
from command_line import run as run_command
from ntm_rl.agents import export_agent, load_run_agent
from ntm_rl.agents.export import files, programs
from ntm_rl.agents.runs.loading import load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.storage.files import WriteError
from ntm_rl.errors import InputError
from small_trainings import TINY_LSTM, TINY_PPO, train_copy, train_run

ROOT = Path(__file__).parents[3]
BLOCK_IMPORTS = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "ntm_rl", "stable_baselines3", "sb3_contrib"):
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocked())
"""

HOSTILE_KEYS = r"""
import gymnasium
from gymnasium import spaces


class Env(gymnasium.Env):
    observation_space = spaces.Dict({key: spaces.Discrete(2) for key in ("line\nbreak", "\u202etfel")})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {key: 0 for key in self.observation_space}, {}

    def step(self, action):
        return self.reset()[0], 1.0, False, False, {}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    overrides = (*TINY_PPO, *TINY_LSTM, "total_timesteps=64", "env.normalize_observation=true")
    return train_run("CartPole-v1", folder, *overrides)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    """The run as an ONNX file."""
    path = tmp_path_factory.mktemp("exported") / "agent.onnx"
    export_agent(load_run_agent(run, device="cpu"), path, environment="CartPole-v1")
    return path


def examples() -> list[str]:
    """The guide's Python code: the game without PyTorch, and the export."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide" / "export.md").read_text(), re.DOTALL)


def returns_of(agent, seeds) -> list[float]:
    env, totals = gymnasium.make("CartPole-v1"), []
    for seed in seeds:
        (observation, _), state, start, total, ended = env.reset(seed=seed), None, True, 0.0, False
        while not ended:
            action, state = agent.predict(observation, state, start, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            start, total, ended = False, total + float(reward), terminated or truncated
        totals.append(total)
    return totals


def test_the_guides_example_plays_as_the_agent_without_torch(run, exported):
    code = BLOCK_IMPORTS + examples()[0]
    played = subprocess.run([sys.executable, "-c", code], cwd=exported.parent, capture_output=True, text=True)
    assert played.returncode == 0, played.stderr
    returns = [float(line.rpartition(" ")[2]) for line in played.stdout.splitlines()]
    assert returns == returns_of(load_run_agent(run, device="cpu"), range(3))


def test_the_guides_export_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(examples()[1].replace("RUN", str(run.path)), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.pt2", "agent.pt2.md"]


def test_the_example_in_the_metadata_runs(exported, monkeypatch):
    monkeypatch.chdir(exported.parent)
    metadata = {each.key: each.value for each in onnx.load(exported).metadata_props}
    found: dict = {}
    exec(metadata["usage"], found)
    inputs, outputs = (json.loads(metadata[key]) for key in ("inputs", "outputs"))
    assert [each["name"] for each in inputs] == ["observation", "state", "reset"]
    for each in outputs[:-1]:
        assert (1, *each["shape"][1:]) == found[each["name"]].shape
        assert each["dtype"] == str(found[each["name"]].dtype)
    assert metadata["environment"] == "CartPole-v1"
    assert metadata["usage"] in exported.with_name("agent.onnx.md").read_text()


def test_files_hold_no_path_of_this_machine(run, exported, tmp_path):
    export_agent(load_run_agent(run, device="cpu"), tmp_path / "agent.pt2")
    with zipfile.ZipFile(tmp_path / "agent.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    for content in (*contents, exported.read_bytes()):
        assert not [place for place in (str(ROOT), torch.__path__[0], str(Path.home())) if place.encode() in content]


def test_command_writes_both_kinds_with_times(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ntm_rl.agents.export.timing.STEPS", 2)
    printed = as_json(capsys, "export", run.path, tmp_path / "a.pt2", "--time")
    assert list(printed["microseconds"]) == ["PyTorch", "torch.export"]
    assert [each["name"] for each in printed["outputs"]] == ["action", "logits", "value", "next_state"]
    found: dict = {}
    code = torch.export.load(tmp_path / "a.pt2", extra_files=(extra := {"metadata.json": ""}))
    assert code is not None
    monkeypatch.chdir(tmp_path)
    exec(json.loads(extra["metadata.json"])["usage"], found)
    assert found["action"].shape == (1,)
    lines = done(capsys, "export", run.path, tmp_path / "a.onnx", "--time").splitlines()
    assert len(lines) == 5 and all("µs of CPU time per step" in line for line in lines[3:])


def test_supervised_networks_are_exported(tmp_path, capsys):
    run = train_copy(tmp_path)
    done(capsys, "export", run.path, tmp_path / "a.onnx")
    network, _ = load_run_network(run)
    inputs = np.random.default_rng(0).normal(size=(6, 2, network.core.input_size)).astype(np.float32)
    session = programs.require("onnxruntime").InferenceSession((tmp_path / "a.onnx").read_bytes())
    state, logits = np.zeros((2, network.core.state_size), np.float32), []
    for step, value in enumerate(inputs):
        answer, state = session.run(None, {"input": value, "state": state, "reset": np.full(2, step == 0)})
        logits.append(answer)
    with torch.no_grad():
        expected = network(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(np.stack(logits), expected, rtol=1e-5, atol=1e-5)


def test_invalid_input_is_one_line(run, exported, tmp_path, capsys):
    assert "exists already" in refused(capsys, "export", run.path, exported)
    assert ".onnx" in refused(capsys, "export", run.path, tmp_path / "agent.bin")
    assert "no such folder" in refused(capsys, "export", run.path, tmp_path / "none" / "agent.onnx")
    (tmp_path / "agent.onnx.md").write_text("mine")
    assert "agent.onnx.md: exists" in refused(capsys, "export", run.path, tmp_path / "agent.onnx")
    assert "no such folder" in refused(capsys, "export", tmp_path / "no-run", tmp_path / "b.onnx")


def test_hostile_keys_of_a_dict_are_escaped_by_train_and_export(tmp_path, capsys, monkeypatch):
    (tmp_path / "hostile_keys.py").write_text(HOSTILE_KEYS)
    monkeypatch.chdir(tmp_path)
    overrides = (*TINY_PPO, *TINY_LSTM, "total_timesteps=64", f"run_dir={tmp_path}", "env.max_episode_steps=8")
    code, out, error = run_command(capsys, "train", "hostile_keys:Env", *overrides)
    assert code == 0, error
    path = Path(re.search(r"Run: (.*)", out).group(1))
    exported = done(capsys, "export", path, tmp_path / "agent.pt2")
    for text in (error, exported):
        assert r"line\nbreak" in text and r"\u202etfel" in text and "\u202e" not in text


def test_an_unwritable_folder_is_found_before_the_export(run, capsys, monkeypatch):
    monkeypatch.setattr(files, "_content", lambda *_: pytest.fail("exported"))
    code, _, error = run_command(capsys, "export", run.path, "/proc/self/agent.onnx")  # also root cannot write there
    assert code == 3 and re.fullmatch(r"/proc/self/agent.onnx: cannot be written: [^:;]+\n", error)


def test_a_full_disk_leaves_no_file_and_the_error_names_the_file_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_content", lambda *_: bytes(50_000))
    before, agent = resource.getrlimit(resource.RLIMIT_FSIZE), load_run_agent(run, device="cpu")
    for limit in (100, 20_000):  # bytes; the README has some thousands
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(WriteError, match=r"agent.onnx: cannot be written: File too large$"):
                export_agent(agent, tmp_path / "agent.onnx")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(run, tmp_path, capsys, monkeypatch):
    def refuse(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(programs, "import_module", refuse)
    line = refused(capsys, "export", run.path, tmp_path / "agent.onnx")
    assert 'pip install "ntm-rl[onnx]"' in line and "onnxscript" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_core_whose_step_depends_on_values_is_refused_in_one_line(run, tmp_path, suffix, monkeypatch, capfd):
    agent = load_run_agent(run, device="cpu")
    plain = type(agent.policy.core)._run

    def run_by_value(self, inputs, state, resets):
        return plain(self, inputs * 2 if bool(inputs.sum() > 0) else inputs, state, resets)

    monkeypatch.setattr(type(agent.policy.core), "_run", run_by_value)
    with pytest.raises(InputError, match=r"core = 'lstm': torch.export cannot export this agent: [^\n]+$"):
        export_agent(agent, tmp_path / f"agent{suffix}")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_step_that_the_graph_does_not_repeat_is_found(run, tmp_path, monkeypatch):
    agent = load_run_agent(run, device="cpu")
    plain = type(agent.policy.core)._run

    def run_differently_when_traced(self, inputs, state, resets):
        output, state = plain(self, inputs, state, resets)
        return (output + 1 if torch.compiler.is_exporting() else output), state

    monkeypatch.setattr(type(agent.policy.core), "_run", run_differently_when_traced)
    with pytest.raises(InputError, match="the exported value differs"):
        export_agent(agent, tmp_path / "agent.onnx")
