"""The speed benchmark: ratios to other libraries, from medians of alternating measurements in one process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from ntm_rl.agents.speed.timing import (
    CARTPOLE,
    PPO_KWARGS,
    REPEAT_PREVIOUS,
    alternate,
    make_default_training,
    make_peer_sized_training,
    make_training,
    training_step,
)
from ntm_rl.cores.registry import make_core
from ntm_rl.envs.algorithmic.env import AlgorithmicVectorEnv
from ntm_rl.envs.factory import EnvSettings, import_family
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError, did_you_mean

Measure = tuple[float, float, str]  # ours, peer, unit


class MissingPeerError(InputError):
    """The peer of a row is not installed."""

    def __init__(self, packages: str):
        super().__init__(f"the peer of this row is not installed; run: pip install {packages}")


@dataclass(frozen=True)
class Row:
    """Result of a comparison.

    Attributes:
        name: Name of the comparison.
        ours: Measurement of this package, median over the repeats.
        peer: Measurement of the peer.
        unit: Unit of both.
        ratio: `ours / peer`.
        goal: Goal of the ratio, such as ">= 8".
        met: Whether the goal is met.
        threads: Number of torch threads.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    goal: str
    met: bool
    threads: int


@dataclass(frozen=True)
class Comparison:
    """A row to measure: `measure(repeats)` returns the values of this package and of the peer, and their unit."""

    measure: Callable[[int], Measure]
    sense: Literal["<=", ">="]
    goal: float
    threads: int = 1


def speed(only: str | None = None, repeats: int = 7) -> Iterator[Row]:
    """Yields the rows of the speed benchmark as they are measured; without a name, rows of missing peers are skipped.

    Args:
        only: Name of a single row.
        repeats: Measurements per row.

    Raises:
        InputError: unknown row.
        MissingPeerError: the peer of the named row is not installed.
    """
    if only is not None and only not in COMPARISONS:
        raise InputError(
            f"only = {only!r}: unknown row; valid are {', '.join(COMPARISONS)}.{did_you_mean(only, COMPARISONS)}"
        )
    before = torch.get_num_threads()
    for name, comparison in COMPARISONS.items():
        if only in (None, name):
            torch.set_num_threads(comparison.threads)
            try:
                ours, peer, unit = comparison.measure(repeats)
            except MissingPeerError as error:
                if only is not None:
                    raise
                print(f"note: {name} is skipped: {error}", file=sys.stderr)
                continue
            ratio = ours / peer
            met = ratio <= comparison.goal if comparison.sense == "<=" else ratio >= comparison.goal
            goal = f"{comparison.sense} {comparison.goal:g}"
            yield Row(name, ours, peer, unit, ratio, goal, met, comparison.threads)
    torch.set_num_threads(before)


def _sequence(
    peer: str, *, steps: int, batch: int, inputs: int, hidden: int, slots: int, width: int
) -> Callable[[int], Measure]:
    """Forward and backward pass of the NTM against a peer with the same shapes."""

    def measure(repeats: int) -> Measure:
        block = torch.randn(steps, batch, inputs)
        options = {"slots": slots, "width": width, "hidden_size": hidden}
        ours = training_step(make_core("ntm", inputs, **options), block)
        if peer == "lstm":
            network = nn.LSTM(inputs, hidden)
            other: Callable[[], Any] = lambda: network(block)[0].sum().backward()  # noqa: E731
        elif peer == "eager":
            other = training_step(make_core("ntm", inputs, backend="eager", **options), block)
        else:
            other = _dnc(block, options)
        our_seconds, peer_seconds = alternate(repeats, ours, other)
        return 1e3 * our_seconds, 1e3 * peer_seconds, "ms"

    return measure


def _dnc(block: Tensor, options: dict[str, int]) -> Callable[[], None]:
    if find_spec("dnc") is None:
        raise MissingPeerError("--no-deps dnc")
    dnc = import_module("dnc")

    network = dnc.DNC(
        block.shape[2],
        options["hidden_size"],
        rnn_type="lstm",
        num_layers=1,
        nr_cells=options["slots"],
        cell_size=options["width"],
        read_heads=1,
        batch_first=False,
    )

    def step() -> None:
        outputs, _ = network(block, (None, None, None), reset_experience=True)
        outputs.sum().backward()

    return step


def _single_step(repeats: int) -> Measure:
    """One step without gradients at batch 8, as in rollouts, against the goal of 60 µs."""
    core = make_core("ntm", 64)
    inputs, resets = torch.randn(1, 8, 64), torch.zeros(1, 8, dtype=torch.bool)

    def hundred() -> None:
        state = core.initial_state(8)
        with torch.no_grad():
            step = core.make_step()
            for _ in range(100):
                _, state = step(inputs, state, resets)

    return 1e4 * alternate(5 * repeats, hundred)[0], 60.0, "µs"


def _peer_training(env_id: str) -> RecurrentPPO:
    env = make_vec_env(EnvSettings(env_id, vectorization="sync"), 8, seed=0)
    return RecurrentPPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 128}, device="cpu", **PPO_KWARGS)


def _ppo(core: str, env_id: str) -> Callable[[int], Measure]:
    """Environment steps per second of a training, two rollouts per repeat."""
    return lambda repeats: _steps_per_second(repeats, make_training(core, env_id), _peer_training(env_id))


def _ppo_default(repeats: int) -> Measure:
    """Training with the default agent."""
    return _steps_per_second(repeats, make_default_training(CARTPOLE), _peer_training(CARTPOLE))


def _steps_per_second(repeats: int, *models: BaseAlgorithm) -> Measure:
    steps = 2 * 128 * 8
    ours, peer = alternate(repeats, *(lambda model=model: model.learn(steps) for model in models))
    return steps / ours, steps / peer, "steps/s"


def _jax(core: str, n_envs: int) -> Callable[[int], Measure]:
    """Training on one core of the processor against a compiled JAX program with a GRU, of the same sizes."""

    def measure(repeats: int) -> Measure:
        if find_spec("jax") is None:
            raise MissingPeerError("jax")
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(before)})  # JAX takes all cores that it finds at its start
        try:
            from ntm_rl.agents.speed import jax_peer

            peer = jax_peer.make_training(n_envs)
            ours = make_peer_sized_training(core, CARTPOLE, n_envs)
            steps = 2 * 128 * n_envs
            seconds = alternate(repeats, lambda: ours.learn(steps), lambda: peer(2))
        finally:
            os.sched_setaffinity(0, before)
        return steps / seconds[0], steps / seconds[1], "steps/s"

    return measure


def _pong(is_recurrent: bool) -> Callable[[int], Measure]:
    """Training on Pong against SB3, with single frames for both (SB3 recommends four stacked frames)."""

    def measure(repeats: int) -> Measure:
        if find_spec("cv2") is None:
            raise MissingPeerError("opencv-python-headless")
        import_family("ALE/")
        env = make_atari_env("PongNoFrameskip-v4", n_envs=8, seed=0)
        peer: BaseAlgorithm = (
            RecurrentPPO("CnnLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 128}, device="cpu", **PPO_KWARGS)
            if is_recurrent
            else PPO("CnnPolicy", env, device="cpu", **PPO_KWARGS)
        )
        return _steps_per_second(min(repeats, 5), make_training("ntm", "ALE/Pong-v5", stack=1), peer)

    return measure


def _ppo_64_envs(repeats: int) -> Measure:
    """Training with 64 batched environments, against the goal of 10,000 steps/s."""
    model = make_training("ntm", REPEAT_PREVIOUS, n_envs=64, batch_size=2048)
    steps = 2 * 128 * 64
    return steps / alternate(repeats, lambda: model.learn(steps))[0], 10_000.0, "steps/s"


def _environment(repeats: int) -> Measure:
    """64 batched environments of the copy task without an agent, against the goal of 300,000 steps/s."""
    envs = AlgorithmicVectorEnv(64, "copy")
    envs.reset(seed=0)
    actions = np.zeros(envs.action_space.shape or (), dtype=np.int8)

    def thousand() -> None:
        for _ in range(1000):
            envs.step(actions)

    return 64_000 / alternate(repeats, thousand)[0], 300_000.0, "steps/s"


def _minigrid(repeats: int) -> Measure:
    """16 batched environments of MiniGrid-MemoryS9 without an agent, against 16 single ones."""
    settings = EnvSettings("MiniGrid-MemoryS9-v0", kwargs={"agent_view_size": 3})
    native, single = (make_vec_env(replace(settings, vectorization=kind), 16, seed=0) for kind in ("native", "sync"))
    actions = np.random.default_rng(0).integers(3, size=(100, 16))

    def hundred(env: VecEnv) -> None:
        for each in actions:
            env.step(each)

    for env in (native, single):
        env.reset()
    ours, peer = alternate(repeats, partial(hundred, native), partial(hundred, single))
    return actions.size / ours, actions.size / peer, "steps/s"


def _memory(repeats: int) -> Measure:
    """Peak resident memory of a training, each in its own process."""
    peaks = {}
    for call in ("make_training('ntm', CARTPOLE)", "_peer_training(CARTPOLE)"):
        code = (
            f"from ntm_rl.agents.speed.comparisons import CARTPOLE, peak_memory, make_training, "
            f"_peer_training; {call}.learn(8192); print(peak_memory())"
        )
        run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        peaks[call] = float(run.stdout)
    ours, peer = peaks.values()
    return ours, peer, "MiB"


_PPO_SIZES = {"steps": 32, "inputs": 64, "hidden": 128, "slots": 32, "width": 16}
_COPY_SIZES = {
    "steps": 41,
    "inputs": 10,
    "hidden": 100,
    "slots": 128,
    "width": 20,
}  # length 20: input, delimiter, output

COMPARISONS: dict[str, Comparison] = {
    "ntm_batch64_vs_lstm": Comparison(_sequence("lstm", batch=64, **_PPO_SIZES), "<=", 2),
    "ntm_batch64_vs_eager": Comparison(_sequence("eager", batch=64, **_PPO_SIZES), "<=", 0.25),
    "ntm_batch8_vs_lstm": Comparison(_sequence("lstm", batch=8, **_PPO_SIZES), "<=", 3),
    "copy_batch1_vs_dnc": Comparison(_sequence("dnc", batch=1, **_COPY_SIZES), "<=", 1 / 25),
    "copy_batch32_vs_dnc": Comparison(_sequence("dnc", batch=32, **_COPY_SIZES), "<=", 1 / 15),
    "copy_batch1_vs_lstm": Comparison(_sequence("lstm", batch=1, **_COPY_SIZES), "<=", 4),
    "copy_batch32_vs_lstm": Comparison(_sequence("lstm", batch=32, **_COPY_SIZES), "<=", 4),
    "step_batch8_vs_60us": Comparison(_single_step, "<=", 1),
    "ppo_lstm_cartpole": Comparison(_ppo("lstm", CARTPOLE), ">=", 8),
    "ppo_lstm_repeat_previous": Comparison(_ppo("lstm", REPEAT_PREVIOUS), ">=", 8),
    "ppo_ntm_cartpole": Comparison(_ppo("ntm", CARTPOLE), ">=", 4),
    "ppo_default_cartpole": Comparison(_ppo_default, ">=", 5),
    "ppo_ntm_repeat_previous": Comparison(_ppo("ntm", REPEAT_PREVIOUS), ">=", 4),
    "ppo_ntm_64_envs_vs_10000": Comparison(_ppo_64_envs, ">=", 1),
    "copy_env_64_vs_300000": Comparison(_environment, ">=", 1),
    "minigrid_memory_env_16_vs_single": Comparison(_minigrid, ">=", 10),
    "pong_ntm_vs_sb3_ppo": Comparison(_pong(is_recurrent=False), ">=", 3, threads=2),
    "pong_ntm_vs_recurrent_ppo": Comparison(_pong(is_recurrent=True), ">=", 4, threads=2),
    "memory_of_ppo_ntm": Comparison(_memory, "<=", 1),
    **{
        f"ppo_{core}_{n_envs}_envs_vs_jax": Comparison(_jax(core, n_envs), ">=", goal)
        for core, goal in (("lstm", 1.5), ("gru", 1.5), ("ntm", 1.1))
        for n_envs in (8, 32, 64)
    },
}
