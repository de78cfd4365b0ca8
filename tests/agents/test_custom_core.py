"""A memory core in a user's module: everything that a core of the package can do, without a change of the package."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ntm_rl import MemoryPPO
from ntm_rl.agents import load_agent, load_run_agent
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.policy.network_files import load_network
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.cores import registry
from ntm_rl.envs import modules
from ntm_rl.errors import InputError

SOURCE = '''
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ntm_rl import MemoryCore, StateLayout, register_core


class ToyState(NamedTuple):
    memory: Tensor
    weighting: Tensor


@register_core("toy")
class Toy(MemoryCore):
    """Writes its input to the slots that a linear layer chooses, and reads them."""

    def __init__(self, input_size: int, *, slots: Annotated[int, "Slots."] = 6, width: Annotated[int, "Width."] = 4):
        super().__init__()
        self.input_size, self.output_size = input_size, width
        self.layout = StateLayout(ToyState, memory=(slots, width), weighting=(slots,))
        self.value, self.address = nn.Linear(input_size, width), nn.Linear(input_size, slots)

    def _run(self, inputs, state, resets):
        outputs = []
        for step, x in enumerate(inputs):
            if resets is not None:
                state = state.masked_fill(resets[step].unsqueeze(1), 0)
            weighting = torch.softmax(self.address(x), dim=1)
            share = weighting.unsqueeze(2)
            memory = (1 - share) * self.unpack(state).memory + share * self.value(x).unsqueeze(1)
            outputs.append((share * memory).sum(dim=1))
            state = self.layout.pack([memory, weighting])
        return torch.stack(outputs), state

    def weightings(self, state):
        return {"read and write 1": self.unpack(state).weighting}

    def memory(self, state):
        return self.unpack(state).memory
'''
PPO = ["algorithmic/copy_ppo", "n_envs=2", "ppo.n_steps=16", "ppo.batch_size=16", "ppo.sequence_length=16"]
PPO += ["checkpoint.every=16", "env.kwargs={bits: 2, max_length: 3}"]
COPY = ["algorithmic/copy", "task.copy.bits=2", "task.copy.max_length=3", "validation.every=10", "log_every=10"]
COPY += [
    "validation.sequences=4",
    "validation.longer=[]",
    "checkpoint.every=10",
    "optimizer.learning_rate_schedule=constant",
]


@pytest.fixture
def core(tmp_path, monkeypatch):
    """`module:toy` of a module in the current folder; what it registers is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.setattr(modules, "_added", set())
    registry.core_names()
    monkeypatch.setattr(registry, "_CORES", dict(registry._CORES))
    name = f"toy_{tmp_path.name.replace('-', '_')}"
    Path(f"{name}.py").write_text(SOURCE)
    yield f"{name}:toy"
    sys.modules.pop(name, None)


def forget(core, monkeypatch):
    """As a new process: the module is not imported, the core not registered."""
    sys.modules.pop(core.partition(":")[0], None)
    monkeypatch.setattr(registry, "_CORES", {name: each for name, each in registry._CORES.items() if name != "toy"})


def train(capsys, core, config, *overrides):
    arguments = [*config, f"core={core}", "memory.toy.slots=5", "wandb=disabled", *overrides]
    assert main(["train", *arguments, "--json"]) == 0
    return Path(json.loads(capsys.readouterr().out)["run"])


def done(capsys, *arguments):
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr()


def test_ppo_trains_resumes_evaluates_films_and_loads_it(core, capsys, monkeypatch, tmp_path):
    iio = pytest.importorskip("imageio.v3")
    run = train(capsys, core, PPO, "total_timesteps=64").resolve()
    assert len(list((run / "checkpoints").iterdir())) > 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for command in (
        ["resume", run, "total_timesteps=96"],
        ["evaluate", run, "--episodes", "2"],
        ["record", run, "--out", "film.mp4"],
        ["inspect", run],
    ):
        forget(core, monkeypatch)
        assert "no weightings" not in done(capsys, *command).err
    assert iio.imread("film.mp4")[-1, 100:, -240:].max() > 30  # the strip of its weighting
    __import__(core.partition(":")[0])
    agent = load_run_agent(run)
    assert (agent.origin.step, agent.policy.core_name, agent.policy.core.address.out_features) == (96, "toy", 5)
    exported = load_agent(run / "agent", "cpu").policy
    for ours, theirs in zip(agent.policy.parameters(), exported.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_supervised_trainer_trains_resumes_evaluates_draws_and_loads_it(core, capsys, monkeypatch, tmp_path):
    run = train(capsys, core, COPY, "total_sequences=20", "optimizer.weighting_entropy=0.1").resolve()
    whole = train(capsys, core, COPY, "total_sequences=40", "optimizer.weighting_entropy=0.1").resolve()
    monkeypatch.chdir("/")
    for command in (
        ["resume", run, "total_sequences=40"],
        ["evaluate", run, "--episodes", "2"],
        ["inspect", run],
    ):
        forget(core, monkeypatch)
        done(capsys, *command)
    assert {path.name for path in (run / "figures").iterdir()} == {
        f"{name}.png" for name in ("answers", "learning_curve", "memory_use")
    }
    resumed, uninterrupted = (load_network(each / "agent")[0] for each in (run, whole))
    assert resumed.core.address.out_features == 5
    for ours, theirs in zip(resumed.parameters(), uninterrupted.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_in_python_its_registered_name_is_enough(core, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    __import__(core.partition(":")[0])
    kwargs = {"core": "toy", "core_kwargs": {"slots": 3}}
    model = MemoryPPO("MlpNtmPolicy", "CartPole-v1", n_steps=16, batch_size=16, policy_kwargs=kwargs, device="cpu")
    model.learn(32)
    actions, state = model.predict(np.zeros((2, 4), np.float32))
    assert actions.shape == (2,) and list(model.policy.core.weightings(torch.from_numpy(state[0][0]))) == [
        "read and write 1"
    ]


def test_the_options_of_a_registered_core_are_keys_of_a_config(core, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    __import__(core.partition(":")[0])
    assert load_settings("algorithmic/copy", ["core=toy", "memory.toy.slots=3"]).core_kwargs == {"slots": 3}
    assert load_settings("algorithmic/copy", ["core=lstm"]).model_dump()["memory"].keys() == set(
        registry.core_names()
    ) - {"toy"}
    with pytest.raises(InputError, match=r"memory.toy.slot: core 'toy' has no such option; .* Did you mean slots\?"):
        load_settings("algorithmic/copy", ["core=toy", "memory.toy.slot=3"])


def test_an_agent_whose_core_is_not_registered_says_what_to_do(core, capsys, monkeypatch):
    run = train(capsys, core, PPO, "total_timesteps=32")
    forget(core, monkeypatch)
    with pytest.raises(InputError, match=r"core = 'toy': unknown core; .*Import the module that registers a core"):
        load_run_agent(run)
    assert core.partition(":")[0] not in sys.modules


@pytest.mark.parametrize("config", [PPO, COPY])
@pytest.mark.parametrize("command", ["evaluate", "record", "resume", "inspect"])
def test_a_run_of_others_imports_no_core_unasked(config, command, core, capsys, monkeypatch, tmp_path):
    length = "total_timesteps=32" if config is PPO else "total_sequences=10"
    run = train(capsys, core, config, length)
    forget(core, monkeypatch)
    Path(f"{core.partition(':')[0]}.py").write_text("raise SystemExit('the code ran')")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of another user"))
    assert main([command, str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"it imports module {core.partition(':')[0]!r} from {tmp_path}" in line and line.endswith("add --trust")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["core=MODULE:tow"], "MODULE does not register 'tow' (ntm_rl.register_core)"),
        (["core=nowhere:toy"], "no module 'nowhere': it is not installed, and "),
        (["core=nowhere:toy"], "or set core_path to that folder"),
        (["core_path=/gone"], "core_path = '/gone': no such folder; set core_path"),
        (["memory.toy.slot=3"], "memory.toy.slot = 3: the core has no such option; it has slots, width. Did you mean"),
        (["core=MODULE:"], "must be a core's name, such as ntm, or my_module:name for a core that my_module.py"),
        (["core=MODULE:model_config"], "must be a core's name"),
        (["memory.tow.slots=3"], "memory.tow = {'slots': 3}: unknown key. Did you mean memory.toy?"),
    ],
)
@pytest.mark.parametrize("config", [PPO, COPY])
def test_what_is_wrong_is_one_line_and_leaves_no_run(config, overrides, message, core, capsys):
    module = core.partition(":")[0]
    overrides = [each.replace("MODULE", module) for each in overrides]
    assert main(["train", *config, f"core={core}", "wandb=disabled", *overrides]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert message.replace("MODULE", module) in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "torch.stack(outputs), state",
            "torch.stack(outputs)[1:], state",
            "_run returns outputs of shape [1, 3, 4]; must ",
        ),
        (
            "torch.stack(outputs), state",
            "torch.stack(outputs), state[:, 1:]",
            "_run returns a state of shape [3, 25]; must ",
        ),
        ("torch.stack(outputs), state", "torch.stack(outputs) / 0, state", "_run returns numbers that are not finite"),
        ("return torch.stack", "raise OSError('broken')  #", ", in _run: OSError: broken"),
        ("self.layout =", "layout =", "the constructor of Toy must set layout"),
        ("nn.Linear(input_size, width)", "nn.Linear(input_size, 'x')", "cannot be made: toy_"),
        (
            "self.unpack(state).weighting}",
            "self.unpack(state).memory}",
            "weightings returns 'read and write 1' of shape",
        ),
        (
            "return self.unpack(state).memory",
            "return 3",
            "memory returns a tensor of type int; must be a tensor [B, N, M]",
        ),
        ('@register_core("toy")', '@register_core("ntm")', "register_core('ntm'): is the name of a built-in core"),
    ],
)
@pytest.mark.parametrize("config", [PPO, COPY])
def test_a_mistake_in_its_code_is_one_line_and_leaves_no_run(config, old, new, message, core, capsys):
    assert SOURCE.count(old) == 1
    Path(f"{core.partition(':')[0]}.py").write_text(SOURCE.replace(old, new))
    assert main(["train", *config, f"core={core}", "wandb=disabled", "memory.toy.slots=5"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("core = '") and message in line
    assert not Path("runs").exists()
