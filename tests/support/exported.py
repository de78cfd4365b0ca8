"""Exported steps played beside the policies from which they come."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from ntm_rl.agents.export.ports import RESET, STATE
from ntm_rl.agents.export.programs import onnx_runner, random_inputs, to_onnx, to_program, to_pt2
from ntm_rl.agents.export.steps import AgentStep, StepModule
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.policies import MlpNtmPolicy, policy_class_for

Outputs = dict[str, np.ndarray]
SMALL: dict[str, dict[str, Any]] = {
    "ntm_block": {"slots": 9, "width": 5, "hidden_size": 12, "horizon": 8},
    "ntm": {"slots": 9, "width": 5, "hidden_size": 12, "read_heads": 2},
    "dnc": {"slots": 6, "width": 5, "hidden_size": 12, "read_heads": 2},
    "sam": {"slots": 16, "width": 5, "hidden_size": 12},
    "mann": {"slots": 6, "width": 5, "hidden_size": 12, "heads": 2},
    "gated_delta": {"hidden_size": 12, "width": 4, "heads": 2},
    "gtrxl": {"hidden_size": 12, "width": 4, "heads": 2, "window": 5},
}


def make_agent(
    observations: spaces.Space[Any], actions: spaces.Space[Any], statistics: Any = None, **options: Any
) -> LoadedAgent:
    """An agent whose last layers have weights of the size that training gives them."""
    torch.manual_seed(0)
    kind = policy_class_for(observations)
    policy = kind(observations, actions, lambda _: 0.0, **{"core": "lstm", "net_arch": [16], **options})
    with torch.no_grad():
        policy.action_net.weight.mul_(100)
        policy.return_scale.mean.fill_(3.0)
        policy.return_scale.std.fill_(2.0)
    policy.set_training_mode(False)
    return LoadedAgent(policy, {"normalization": {"epsilon": 1e-8, "clip": 10.0}}, statistics or {})


def runners(step: StepModule) -> list[Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]]:
    """The step in ONNX Runtime and as a loaded `torch.export` program."""
    program = to_program(step)
    loaded = torch.export.load(io.BytesIO(to_pt2(program, {}))).module()

    def run(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        with torch.no_grad():
            return [each.numpy() for each in loaded(*map(torch.from_numpy, inputs))]

    return [onnx_runner(step, to_onnx(step, program, {}), threads=1), run]


def play(step: AgentStep, run: Callable, batch: int, steps: int, reference: Callable[..., Outputs]) -> None:
    """Plays random observations with resets in the middle, and compares every step with `reference`.

    Args:
        step: The step.
        run: Its exported form.
        batch: Number of sequences.
        steps: Number of steps.
        reference: Returns the expected outputs by name for inputs by name; it carries its own state.
    """
    rng, state = np.random.default_rng(batch), np.zeros((batch, step.state_size), np.float32)
    for number in range(steps):
        inputs = {**random_inputs(step, batch, rng), STATE: state, RESET: rng.random(batch) < 0.2}
        inputs[RESET] |= number == 0
        found = dict(zip((port.name for port in step.outputs), run(list(inputs.values())), strict=True))
        for port in step.outputs:
            assert (str(found[port.name].dtype), found[port.name].shape) == (port.dtype, (batch, *port.shape))
        for name, expected in reference(inputs).items():
            if name == "action" and expected.dtype.kind in "iub":
                np.testing.assert_array_equal(found[name], expected, str(number))
            else:
                np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5, err_msg=f"{name} {number}")
        state = found["next_state"]


def policy_reference(policy: MlpNtmPolicy, read: Callable[[dict[str, np.ndarray]], Any], batch: int) -> Callable:
    """Actions of `predict` and values of `step`, each with its own state, for observations that `read` returns."""
    states: dict[str, Any] = {"predict": None, "step": policy.initial_state(batch)}

    def run(inputs: dict[str, np.ndarray]) -> Outputs:
        observation = read(inputs)
        action, states["predict"] = policy.predict(observation, states["predict"], inputs[RESET], deterministic=True)
        tensors, _ = policy.obs_to_tensor(observation)
        with torch.no_grad():
            resets = torch.from_numpy(inputs[RESET])
            _, values, _, states["step"] = policy.step(tensors, states["step"], resets, deterministic=True)
        return {"action": action, "value": values.numpy()}

    return run
