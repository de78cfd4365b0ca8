"""Every core as an exported step, against the policy's own `predict` and `step`."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from exported import SMALL, make_agent, play, policy_reference, runners
from ntm_rl.agents.export.files import export_agent
from ntm_rl.agents.export.steps import AgentStep
from ntm_rl.cores import registry
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.registry import core_names, register_core
from ntm_rl.errors import InputError

STEPS = 30


@pytest.mark.parametrize("core", core_names())
def test_every_core_acts_as_its_policy_at_any_batch_size(core):
    options = {"core": core, "core_kwargs": SMALL.get(core, {}), "critic": "separate" if core == "lstm" else "shared"}
    agent = make_agent(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4), **options)
    step = AgentStep(agent)
    for run in runners(step):
        for batch in (1, 7):
            reference = policy_reference(agent.policy, lambda inputs: inputs["observation"], batch)
            play(step, run, batch, STEPS, reference)


class SumState(NamedTuple):
    total: torch.Tensor


class Sum(MemoryCore):
    """A user's core: the sum of the inputs of the episode."""

    def __init__(self, input_size: int):
        super().__init__()
        self.input_size = self.output_size = input_size
        self.layout = StateLayout(SumState, total=(input_size,))
        self.scale = torch.nn.Parameter(torch.ones(input_size))

    def _run(self, inputs, state, resets):
        outputs = []
        for step, value in enumerate(inputs):
            if resets is not None:
                state = state.masked_fill(resets[step].unsqueeze(1), 0)
            outputs.append(self.unpack(state).total + self.scale * value)
            state = self.layout.pack([outputs[-1]])
        return torch.stack(outputs), state


class FixedSum(Sum):
    """As `Sum`, with a batch size that a trace fixes."""

    def _run(self, inputs, state, resets):
        outputs, state = super()._run(inputs, state, resets)
        return outputs + torch.zeros(1, len(state), 1), state


@pytest.fixture
def users_cores(monkeypatch):
    monkeypatch.setattr(registry, "_CORES", dict(registry._CORES))
    register_core("sum")(Sum)
    register_core("fixed-sum")(FixedSum)


def test_a_users_core_is_exported(users_cores):
    agent = make_agent(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4), core="sum")
    step = AgentStep(agent)
    for run in runners(step):
        play(step, run, 3, STEPS, policy_reference(agent.policy, lambda inputs: inputs["observation"], 3))


def test_a_users_core_that_fixes_the_batch_size_is_refused_in_one_line(users_cores, tmp_path, capfd):
    agent = make_agent(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4), core="fixed-sum")
    with pytest.raises(
        InputError, match=r"core = 'fixed-sum': [^\n]* use tensor.shape\[0\] in place of len\(tensor\)$"
    ):
        export_agent(agent, tmp_path / "agent.onnx")
    assert capfd.readouterr() == ("", "") and list(tmp_path.iterdir()) == []
