"""The speed benchmark: ratios to other libraries, from medians of alternating measurements in one process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_atari_env
from torch import Tensor, nn

from ntm_rl.agents.defaults import CORE
from ntm_rl.agents.speed.environment_steps import POPGYM_GAMES, copy_steps, minigrid_steps, popgym_steps
from ntm_rl.agents.speed.rows import Comparison, Measure, MissingPeerError, Row, measure
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
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import make_core
from ntm_rl.envs.factory import EnvSettings, import_family
from ntm_rl.envs.sb3.making import make_vec_env


def speed(only: str | None = None, repeats: int = 7) -> Iterator[Row]:
    """Yields the rows of the speed benchmark on the CPU; see `measure`."""
    return measure(COMPARISONS, only, repeats)


def _sequence(
    peer: str, *, steps: int, batch: int, inputs: int, hidden: int, slots: int, width: int
) -> Callable[[int], Measure]:
    """Forward and backward pass of the NTM against a peer with the same shapes."""

    def compare(repeats: int) -> Measure:
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

    return compare


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
    return 1e4 * alternate(5 * repeats, _hundred_steps(make_core("ntm", 64)))[0], 60.0, "µs"


def _hundred_steps(core: MemoryCore) -> Callable[[], None]:
    inputs, resets = torch.randn(1, 8, core.input_size), torch.zeros(1, 8, dtype=torch.bool)

    def run() -> None:
        state = core.initial_state(8)
        with torch.no_grad():
            step = core.make_step()
            for _ in range(100):
                _, state = step(inputs, state, resets)

    return run


def _default_core(repeats: int) -> Measure:
    """Forward and backward pass of 8 sequences in the default core, against an NTM of the same sizes."""
    block, (ours, peer) = torch.randn(128, 8, 4), _default_cores()
    seconds = alternate(repeats, training_step(ours, block), training_step(peer, block))
    return 1e3 * seconds[0], 1e3 * seconds[1], "ms"


def _default_core_step(repeats: int) -> Measure:
    """As `_single_step`, of the default core against an NTM of the same sizes."""
    seconds = alternate(5 * repeats, *map(_hundred_steps, _default_cores()))
    return 1e4 * seconds[0], 1e4 * seconds[1], "µs"


def _default_cores() -> tuple[MemoryCore, MemoryCore]:
    ours = make_core(CORE, 4)
    sizes = {name: getattr(ours, name) for name in ("slots", "width", "read_heads", "write_heads", "hidden_size")}
    return ours, make_core("ntm", 4, **sizes)


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
    """Measures trainings, whose environments are reset in the warm-up run only."""
    steps = 2 * 128 * 8
    ours, peer = alternate(
        repeats, *(lambda model=model: model.learn(steps, reset_num_timesteps=False) for model in models)
    )
    return steps / ours, steps / peer, "steps/s"


def _jax(core: str, n_envs: int) -> Callable[[int], Measure]:
    """Training on one core of the processor against a compiled JAX program with a GRU, of the same sizes."""

    def compare(repeats: int) -> Measure:
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

    return compare


def _pong(is_recurrent: bool) -> Callable[[int], Measure]:
    """Training on Pong against SB3, with single frames for both (SB3 recommends four stacked frames)."""

    def compare(repeats: int) -> Measure:
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

    return compare


def _ppo_64_envs(repeats: int) -> Measure:
    """Training with 64 batched environments, against the goal of 10,000 steps/s."""
    model = make_training("ntm", REPEAT_PREVIOUS, n_envs=64, batch_size=2048)
    steps = 2 * 128 * 64
    return steps / alternate(repeats, lambda: model.learn(steps))[0], 10_000.0, "steps/s"


def _environment(repeats: int) -> Measure:
    """64 batched environments of the copy task, against the goal of 300,000 steps/s."""
    return copy_steps(repeats), 300_000.0, "steps/s"


def _minigrid(repeats: int) -> Measure:
    return *minigrid_steps(repeats), "steps/s"


def _popgym(game: str) -> Callable[[int], Measure]:
    return lambda repeats: (*popgym_steps(game, repeats), "steps/s")


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
    "default_core_vs_ntm": Comparison(_default_core, "<=", 1.5),
    "default_core_step_vs_ntm": Comparison(_default_core_step, "<=", 1.5),
    "ppo_lstm_cartpole": Comparison(_ppo("lstm", CARTPOLE), ">=", 8),
    "ppo_lstm_repeat_previous": Comparison(_ppo("lstm", REPEAT_PREVIOUS), ">=", 8),
    "ppo_ntm_cartpole": Comparison(_ppo("ntm", CARTPOLE), ">=", 4),
    "ppo_default_cartpole": Comparison(_ppo_default, ">=", 5),
    "ppo_ntm_repeat_previous": Comparison(_ppo("ntm", REPEAT_PREVIOUS), ">=", 4),
    "ppo_ntm_64_envs_vs_10000": Comparison(_ppo_64_envs, ">=", 1),
    "copy_env_64_vs_300000": Comparison(_environment, ">=", 1),
    "minigrid_memory_env_16_vs_single": Comparison(_minigrid, ">=", 10),
    **{f"{game}_env_32_vs_popgym": Comparison(_popgym(game), ">=", 10) for game in POPGYM_GAMES},
    "pong_ntm_vs_sb3_ppo": Comparison(_pong(is_recurrent=False), ">=", 3, threads=2),
    "pong_ntm_vs_recurrent_ppo": Comparison(_pong(is_recurrent=True), ">=", 4, threads=2),
    "memory_of_ppo_ntm": Comparison(_memory, "<=", 1),
    **{
        f"ppo_{core}_{n_envs}_envs_vs_jax": Comparison(_jax(core, n_envs), ">=", goal)
        for core, goal in (("lstm", 1.5), ("gru", 1.5), ("ntm", 1.1))
        for n_envs in (8, 32, 64)
    },
}
