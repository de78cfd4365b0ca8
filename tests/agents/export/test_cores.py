"""Every core as an exported step, against the policy's own `predict` and `step`."""

import numpy as np
import pytest
from gymnasium import spaces

from exported import SMALL, make_agent, play, policy_reference, runners
from ntm_rl.agents.export.steps import AgentStep
from ntm_rl.cores.registry import core_names

STEPS = 30


@pytest.mark.parametrize("core", [name for name in core_names() if name not in ("elman", "frame_stack")])
def test_every_core_acts_as_its_policy_at_any_batch_size(core):
    agent = make_agent(
        spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4), core=core, core_kwargs=SMALL.get(core, {})
    )
    step = AgentStep(agent)
    for run in runners(step):
        for batch in (1, 7):
            reference = policy_reference(agent.policy, lambda inputs: inputs["observation"], batch)
            play(step, run, batch, STEPS, reference)


def test_a_separate_critic_has_its_own_state():
    agent = make_agent(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4), critic="separate")
    step = AgentStep(agent)
    assert step.state_size == 2 * agent.policy.core.state_size
    for run in runners(step):
        play(step, run, 3, STEPS, policy_reference(agent.policy, lambda inputs: inputs["observation"], 3))
