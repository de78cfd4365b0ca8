"""The speed benchmark on one device: cores beside `nn.LSTM`, and trainings beside `sb3_contrib.RecurrentPPO`."""

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from torch import nn

from ntm_rl.agents.speed.rows import Comparison, Measure, Row, measure
from ntm_rl.agents.speed.timing import CARTPOLE, PPO_KWARGS, alternate, make_training, synchronized_clock, training_step
from ntm_rl.cores.registry import core_options, make_core
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

STEPS, BATCH, INPUTS, UNITS = 32, 64, 64, 128  # of a sequence
ENVS, SLOTS, FIRST_ENVS = (8, 64, 512), (32, 128, 512), 64
CORES = ("ntm", "ntm_block", "lstm")
ROLLOUT, MINIBATCHES = 128, 4
WARM_UPS = 3  # compiled steps are compiled, recorded as CUDA graphs, and then replayed
SECONDS, ROW_SECONDS = 270.0, 5.0


def device_speed(device: torch.device, only: str | None = None, repeats: int = 7) -> Iterator[Row]:
    """Yields the rows of a device; the most informative ones come first, as none is begun after some minutes.

    Raises:
        InputError: unknown row.
    """
    return measure(device_comparisons(device), only, repeats, SECONDS)


def find_device(name: str) -> torch.device:
    """Returns a device by its name.

    Raises:
        InputError: invalid, or torch does not see it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device = {name!r}: must be cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device = {name!r}: must be cpu, cuda or cuda:N")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(f"device = {name!r}: not available, as torch sees {count} CUDA devices; use cpu")
    return device


def device_comparisons(device: torch.device) -> dict[str, Comparison]:
    """Returns the rows of a device by name: first with few slots, then by environments and by slots."""
    peer = cache(partial(_peer_seconds, device))
    rows: dict[str, Callable[[int], Measure]] = {}

    def add_sequence(core: str, slots: int, backend: str | None = None) -> None:
        options = {**_options(core, slots), **({} if backend is None else {"backend": backend})}
        rows["_".join(["sequence", core, *_texts(options)])] = partial(_sequence, device, core, options)

    def add_training(core: str, n_envs: int, slots: int) -> None:
        options = _options(core, slots)
        name = "_".join(["ppo", core, f"{n_envs}_envs", *_texts(options)])
        rows[name] = partial(_training, device, peer, core, n_envs, options)

    for core in CORES:
        add_sequence(core, SLOTS[0])
        add_training(core, FIRST_ENVS, SLOTS[0])
    add_sequence("ntm", SLOTS[0], "eager")
    for n_envs in ENVS:
        for core in CORES:
            add_training(core, n_envs, SLOTS[0])
    for slots in SLOTS[1:]:
        for core in ("ntm", "ntm_block"):
            add_sequence(core, slots)
            add_training(core, FIRST_ENVS, slots)
    return {name: Comparison(partial(_or_failure, compare)) for name, compare in rows.items()}


def _options(core: str, slots: int) -> dict[str, Any]:
    return {"slots": slots} if "slots" in core_options(core) else {}


def _texts(options: dict[str, Any]) -> list[str]:
    return [f"{value}_slots" if name == "slots" else value for name, value in options.items()]


def _or_failure(compare: Callable[[int], Measure], repeats: int) -> Measure:
    """Returns the error in place of the unit, so that a row that fails on a device does not end the others."""
    try:
        return compare(repeats)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        return math.nan, math.nan, f"{type(error).__name__}: {reason}"


def _sequence(device: torch.device, core: str, options: dict[str, Any], repeats: int) -> Measure:
    """Forward and backward pass of sequences without resets, in ms."""
    block = torch.randn(STEPS, BATCH, INPUTS, device=device)
    ours = training_step(make_core(core, INPUTS, hidden_size=UNITS, **options).to(device), block)
    network = nn.LSTM(INPUTS, UNITS).to(device)
    peer = lambda: network(block)[0].sum().backward()  # noqa: E731
    clock = synchronized_clock(device)
    our_seconds, peer_seconds = alternate(3 * repeats, ours, peer, clock=clock, warm_ups=WARM_UPS, limit=ROW_SECONDS)
    return 1e3 * our_seconds, 1e3 * peer_seconds, "ms"


def _training(
    device: torch.device,
    peer_seconds: Callable[[int, int], float],
    core: str,
    n_envs: int,
    options: dict[str, Any],
    repeats: int,
) -> Measure:
    """Environment steps per second of one rollout and its updates."""
    steps = ROLLOUT * n_envs
    model = make_training(core, CARTPOLE, n_envs, steps // MINIBATCHES, device=device, core_kwargs=options)
    (seconds,) = alternate(
        repeats,
        lambda: model.learn(steps),
        clock=synchronized_clock(device),
        warm_ups=WARM_UPS if device.type == "cuda" else 1,
        limit=ROW_SECONDS,
    )
    return steps / seconds, steps / peer_seconds(n_envs, repeats), "steps/s"


def _peer_seconds(device: torch.device, n_envs: int, repeats: int) -> float:
    """Seconds of the peer in the same batched environments; not alternating, as all rows of `n_envs` share them."""
    env, steps = make_vec_env(EnvSettings(CARTPOLE), n_envs, seed=0), ROLLOUT * n_envs
    sizes = {**PPO_KWARGS, "batch_size": steps // MINIBATCHES}
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": UNITS}, device=device, **sizes)
    (seconds,) = alternate(repeats, lambda: model.learn(steps), clock=synchronized_clock(device), limit=ROW_SECONDS)
    return seconds
