"""Alternating time measurements, and peak memory."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ntm_rl.agents.policy.policies import policy_class_for
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.cores.base import MemoryCore
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.making import make_vec_env

CARTPOLE, REPEAT_PREVIOUS = "CartPole-v1", "popgym-RepeatPreviousEasy-v0"


def alternate(
    repeats: int,
    *actions: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    warm_ups: int = 1,
    limit: float = math.inf,
) -> list[float]:
    """Returns the median time of each action in seconds; the actions alternate.

    Args:
        repeats: Measurements of each action.
        *actions: The actions.
        clock: Returns the time in seconds.
        warm_ups: Runs of each action before the measurements.
        limit: Seconds of the clock after which no other repeat begins, but the first.
    """
    seconds: list[list[float]] = [[] for _ in actions]
    for repeat in range(-warm_ups, repeats):
        if sum(map(sum, seconds)) > limit:
            break
        for durations, action in zip(seconds, actions, strict=True):
            start = clock()
            action()
            if repeat >= 0:
                durations.append(clock() - start)
    return [median(durations) for durations in seconds]


def synchronized_clock(device: torch.device) -> Callable[[], float]:
    """Returns a clock that waits for the work of a device."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def training_step(core: MemoryCore, inputs: Tensor) -> Callable[[], None]:
    """Returns a function that runs a core forward and backward on inputs `[T, B, I]`."""

    def step() -> None:
        outputs = core.outputs(inputs, core.initial_state(inputs.shape[1]))
        outputs.sum().backward()

    return step


PPO_KWARGS: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "seed": 0}


def make_training(
    core: str,
    env_id: str,
    n_envs: int = 8,
    batch_size: int = 256,
    *,
    device: torch.device | str = "cpu",
    core_kwargs: Mapping[str, Any] = MappingProxyType({}),
    **kwargs: Any,
) -> MemoryPPO:
    """Returns the training to measure; its core has 128 units and otherwise default options.

    Networks and lambda are fixed, so that figures remain comparable when defaults change.

    Args:
        core: Name of the core.
        env_id: Id of the environment.
        n_envs: Number of sub-environments.
        batch_size: Transitions per minibatch.
        device: Device of the training.
        core_kwargs: More options of the core.
        **kwargs: Arguments of the environment.
    """
    of_core = {"hidden_size": 128, **core_kwargs}
    options = {"core": core, "core_kwargs": of_core, "net_arch": [64], "activation_fn": nn.Tanh}
    env = make_vec_env(EnvSettings(env_id, kwargs=kwargs), n_envs, seed=0)
    sizes = {**PPO_KWARGS, "batch_size": batch_size}
    policy = policy_class_for(env.observation_space)
    return MemoryPPO(policy, env, sequence_length=32, gae_lambda=0.95, policy_kwargs=options, device=device, **sizes)


def make_default_training(env_id: str) -> MemoryPPO:
    """Returns a training with the default networks and lambda, and otherwise the sizes of `make_training`."""
    env = make_vec_env(EnvSettings(env_id), 8, seed=0)
    return MemoryPPO(policy_class_for(env.observation_space), env, device="cpu", **PPO_KWARGS)


def make_peer_sized_training(core: str, env_id: str, n_envs: int) -> MemoryPPO:
    """Returns a training with the sizes of `ntm_rl.agents.speed.jax_peer`."""
    env = make_vec_env(EnvSettings(env_id), n_envs, seed=0)
    options = {"core": core, "core_kwargs": {"hidden_size": 128}, "net_arch": [128], "activation_fn": nn.ReLU}
    sizes = {**PPO_KWARGS, "sequence_length": 128, "batch_size": 32 * n_envs, "gae_lambda": 0.95}
    return MemoryPPO(policy_class_for(env.observation_space), env, policy_kwargs=options, device="cpu", **sizes)


def peak_memory() -> float:
    """Returns the peak resident memory of this process in MiB (Linux).

    `ru_maxrss` would include the memory of the parent at the fork.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
