"""Observation and action spaces of exported steps, against the policy's own `predict` and `step`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from exported import make_agent, play, policy_reference, runners
from ntm_rl.agents.export.steps import AgentStep
from ntm_rl.envs.wrappers.previous_step import PreviousStepEncoding
from ntm_rl.errors import InputError

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 40, 36), np.uint8)
FLOAT_IMAGE = spaces.Box(0, 1, (1, 12, 10), np.float32)
PARTS = spaces.Dict(
    {
        "hp/now": spaces.Box(-5, 5, (), np.float64),
        "state": spaces.Discrete(5),
        "größe | 1": spaces.MultiDiscrete([2, 3]),
        "bits": spaces.MultiBinary(3),
        "picture": FLOAT_IMAGE,
    }
)
TYPES = spaces.Dict(
    {str(np.dtype(kind)): spaces.Box(0, 9, (2,), kind) for kind in (np.float16, np.int8, np.int64, np.uint8, np.uint16)}
)
GSDE = {"use_sde": True, "squash_output": True}


@dataclass
class Case:
    """An agent's spaces and options; with `previous`, the wrapper `PreviousStep` is around the environment."""

    observations: spaces.Space[Any]
    actions: spaces.Space[Any]
    previous: bool = False
    normalized: tuple[str, ...] = ()
    channels_last: bool = False
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "discrete from 5 after discrete": Case(spaces.Discrete(6), spaces.Discrete(3, start=5), previous=True),
    "multidiscrete from 1, parts": Case(PARTS, spaces.MultiDiscrete([3, 2], start=[1, -1]), True, ("hp/now",)),
    "multibinary after multibinary": Case(spaces.MultiBinary(4), spaces.MultiBinary(3), previous=True),
    "box, normalized": Case(BOX, spaces.Box(-0.2, 0.3, (2,), np.float32), True, ("observation",)),
    "squashed gSDE": Case(BOX, spaces.Box(-3, 8, (2, 2), np.float64), options=GSDE),
    "integers after types": Case(TYPES, spaces.Box(-5, 5, (2,), np.int32)),
    "bytes after multidiscrete": Case(spaces.MultiDiscrete([2, 3]), spaces.Box(0, 255, (2,), np.uint8)),
    "image": Case(IMAGE, spaces.Discrete(4, dtype=np.int8)),
    "image, channels last": Case(IMAGE, spaces.Box(0, 1, (2,), np.bool_), channels_last=True),
    "float image, channels last": Case(FLOAT_IMAGE, spaces.Discrete(3), channels_last=True),
}
# A trace takes seconds; these cover each kind of observation, action and conversion.
EXPORTED = ("multidiscrete from 1, parts", "box, normalized", "squashed gSDE", "image, channels last")


def reader(case: Case, agent: Any) -> Callable[[dict[str, np.ndarray]], Any]:
    """Builds the policy's observations from named inputs with the wrapper's own encoding."""
    encoding = PreviousStepEncoding(case.observations, case.actions, action=True, reward=True)

    def read(inputs: dict[str, np.ndarray]) -> Any:
        if isinstance(case.observations, spaces.Dict):
            observation: Any = {key: inputs[f"observation.{key}"] for key in case.observations.spaces}
        else:
            observation = inputs["observation"]
        if case.channels_last:
            observation = observation.transpose(0, 3, 1, 2)
        if case.previous:
            lasting = ~inputs["reset"][:, None]
            actions = encoding.encode(inputs["previous_action"]) * lasting
            observation = encoding.join(observation, actions, inputs["previous_reward"][:, None] * lasting)
        return agent.normalized(observation)

    return read


def prepare(name: str) -> tuple[AgentStep, Callable[[int], Callable]]:
    """Returns the step of a case and a function that makes its reference for a batch size."""
    case = CASES[name]
    encoding = PreviousStepEncoding(case.observations, case.actions, action=True, reward=True)
    space = encoding.space if case.previous else case.observations
    statistics = {}
    for key in case.normalized:
        shape = (space[key] if isinstance(space, spaces.Dict) else space).shape
        statistics |= {f"{key}.mean": torch.full(shape, 0.3).double(), f"{key}.var": torch.full(shape, 1e-3).double()}
    agent = make_agent(space, case.actions, statistics, core_kwargs={"hidden_size": 8}, **case.options)
    step = AgentStep(agent, case.channels_last)
    agent = type(agent)(step.policy, agent.card, agent.statistics)  # the copy's convolutions are in float32
    return step, lambda batch: policy_reference(agent.policy, reader(case, agent), batch)


@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_and_returns_what_the_environment_does(name):
    step, reference = prepare(name)

    def run(inputs):
        with torch.no_grad():
            return [each.numpy() for each in step(*map(torch.from_numpy, inputs))]

    for batch in (1, 7):
        play(step, run, batch, 8, reference(batch))


@pytest.mark.parametrize("name", EXPORTED)
def test_the_exported_step_does_so_too(name):
    step, reference = prepare(name)
    for run in runners(step):
        for batch in (1, 7):
            play(step, run, batch, 8, reference(batch))


def outputs_of(step: AgentStep) -> tuple[dict[str, np.ndarray], Any]:
    """Outputs of one step from zero states, and the policy's own distribution there."""
    observation = torch.linspace(-1, 1, 5 * 3).view(5, 3)
    state, resets = torch.zeros(5, step.state_size), torch.ones(5, dtype=torch.bool)
    with torch.no_grad():
        found = [each.numpy() for each in step(observation, state, resets)]
        distribution, _ = step.policy.action_distribution(observation, state, resets)
    return dict(zip((port.name for port in step.outputs), found, strict=True)), distribution


@pytest.mark.parametrize("options", [{}, {"use_sde": True}, GSDE])
def test_mean_and_deviation_are_those_of_the_policy(options):
    agent = make_agent(BOX, spaces.Box(-1, 1, (2,), np.float32), log_std_init=-0.7, **options)
    found, distribution = outputs_of(AgentStep(agent))
    np.testing.assert_allclose(found["mean"], distribution.distribution.mean, rtol=1e-6)
    np.testing.assert_allclose(found["std"], distribution.distribution.stddev, rtol=1e-6)


def test_logits_are_log_probabilities_of_each_component():
    found, distribution = outputs_of(AgentStep(make_agent(BOX, spaces.MultiDiscrete([3, 2]))))
    expected = torch.cat([part.logits for part in distribution.distribution], dim=1)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5)
    found, distribution = outputs_of(AgentStep(make_agent(BOX, spaces.MultiBinary(3))))
    np.testing.assert_allclose(found["logits"], distribution.distribution.logits, rtol=1e-5)


def test_a_part_of_the_users_own_that_is_called_previous_action_is_no_action():
    space = spaces.Dict(previous_action=spaces.Box(0, 1, (7,)), observation=BOX)
    step = AgentStep(make_agent(space, spaces.Discrete(3)))
    assert [port.name for port in step.inputs] == ["observation.previous_action", "observation", "state", "reset"]


def test_channels_last_needs_an_image():
    with pytest.raises(InputError, match="observes no image"):
        AgentStep(make_agent(BOX, spaces.Discrete(2)), channels_last=True)
