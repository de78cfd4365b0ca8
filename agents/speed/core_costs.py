"""The cost of a step of each memory core at about the same number of parameters.

Times are CPU times of one thread, as in the growth benchmark.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ntm_rl.agents.speed.timing import alternate
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.matching import matched_options, parameter_count
from ntm_rl.cores.registry import core_class, core_names, make_core

INPUTS, PARAMETERS = 64, 100_000
STEPS, BATCH, RESET_RATE = 64, 16, 0.01  # training sequences; 1% of the steps start an episode
ENVS, ROLLOUT = 32, 10


@dataclass(frozen=True)
class CoreCost:
    """Cost of one core.

    Attributes:
        core: Name of the core.
        hidden_size: Hidden size that gives about 100,000 parameters.
        parameters: Number of parameters.
        state_size: Size of the state of one environment.
        training: µs per step of 16 sequences of 64 steps with resets, forward and backward.
        rollout: µs per step of 32 environments, without gradients.
    """

    core: str
    hidden_size: int
    parameters: int
    state_size: int
    training: float
    rollout: float


def core_costs(only: str | None = None, repeats: int = 15) -> list[CoreCost]:
    """Returns the costs of all cores, or of one; measurements alternate, so that other load affects all cores alike.

    Args:
        only: Name of a single core.
        repeats: Measurements per core.

    Raises:
        InputError: unknown core.
    """
    if only is not None:
        core_class(only)
    names = core_names() if only is None else (only,)
    options = {name: matched_options(name, INPUTS, PARAMETERS) for name in names}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cores = {name: make_core(name, INPUTS, **options[name]) for name in names}
    trainings = alternate(repeats, *map(_training, cores.values()), clock=time.process_time)
    rollouts = alternate(repeats, *map(_rollout, cores.values()), clock=time.process_time)
    torch.set_num_threads(before)
    return [
        CoreCost(
            name,
            options[name]["hidden_size"],
            parameter_count(name, INPUTS, **options[name]),
            cores[name].state_size,
            1e6 * training / STEPS,
            1e6 * rollout / ROLLOUT,
        )
        for name, training, rollout in zip(names, trainings, rollouts, strict=True)
    ]


def _training(core: MemoryCore) -> Callable[[], None]:
    inputs, resets = torch.randn(STEPS, BATCH, INPUTS), torch.rand(STEPS, BATCH) < RESET_RATE
    state = core.initial_state(BATCH)

    def run() -> None:
        core.outputs(inputs, state, resets).sum().backward()

    return run


def _rollout(core: MemoryCore) -> Callable[[], None]:
    inputs, resets = torch.randn(1, ENVS, INPUTS), torch.zeros(1, ENVS, dtype=torch.bool)

    def run() -> None:
        state = core.initial_state(ENVS)
        with torch.no_grad():
            step = core.make_step()
            for _ in range(ROLLOUT):
                _, state = step(inputs, state, resets)

    return run


def table(costs: Iterable[CoreCost]) -> str:
    """Returns the costs as a Markdown table."""
    head = (
        "| core | hidden_size | parameters | state | training, µs/step | rollout, µs/step |\n|---|---|---|---|---|---|"
    )
    rows = [
        f"| {cost.core} | {cost.hidden_size} | {cost.parameters:,} | {cost.state_size:,} "
        f"| {cost.training:,.0f} | {cost.rollout:,.0f} |"
        for cost in costs
    ]
    return "\n".join([head, *rows])
