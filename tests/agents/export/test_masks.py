"""Action masks of exported steps, against the policy's own `step`."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from exported import make_agent, runners
from ntm_rl.agents.export.steps import AgentStep
from ntm_rl.envs.wrappers.action_masks import value_counts
from ntm_rl.errors import InputError

BOX = spaces.Box(-1, 1, (3,), np.float32)
SPACES = {
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(3),
}


def random_masks(space: spaces.Space, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Masks that allow at least one value of each component."""
    rows = []
    for size in value_counts(space):
        allowed = rng.random((batch, size)) < 0.4
        allowed[np.arange(batch), rng.integers(size, size=batch)] = True
        rows.append(allowed)
    return np.concatenate(rows, axis=1)


@pytest.mark.parametrize("name", SPACES)
def test_a_step_takes_the_most_likely_allowed_action(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    step = AgentStep(make_agent(BOX, space, core_kwargs={"hidden_size": 8}), action_masks=True)
    assert [port.name for port in step.inputs] == ["observation", "action_mask", "state", "reset"]
    runs = runners(step) if name == "discrete" else []  # a trace takes seconds
    for batch in (1, 7):
        observations, masks = rng.uniform(-1, 1, (batch, 3)).astype(np.float32), random_masks(space, batch, rng)
        state, reset = np.zeros((batch, step.state_size), np.float32), np.ones(batch, bool)
        tensors = [torch.from_numpy(each) for each in (observations, masks, state, reset)]
        with torch.no_grad():
            taken, *_ = step.policy.step(tensors[0], tensors[2], tensors[3], True, tensors[1])
            found = [[each.numpy() for each in step(*tensors)], *(run([*map(np.asarray, tensors)]) for run in runs)]
        for action, logits, *_ in found:
            np.testing.assert_array_equal(action, taken.numpy())
            if name == "discrete":
                np.testing.assert_allclose(np.exp(logits)[~masks], 0, atol=1e-12)
                np.testing.assert_allclose(np.exp(logits).sum(1), 1, rtol=1e-5)


def test_box_actions_have_no_masks():
    with pytest.raises(InputError, match="must be for Discrete, MultiDiscrete or MultiBinary"):
        AgentStep(make_agent(BOX, BOX), action_masks=True)
