"""Steps per second of batched environments without an agent, against the original ones."""

from dataclasses import replace
from functools import partial
from time import process_time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.speed.timing import alternate
from ntm_rl.envs.algorithmic.env import AlgorithmicVectorEnv
from ntm_rl.envs.factory import EnvSettings, import_family
from ntm_rl.envs.native import make_native
from ntm_rl.envs.sb3.making import make_vec_env

# The largest board or longest episode of each family.
POPGYM_GAMES = (
    "BattleshipHard",
    "MineSweeperHard",
    "MultiarmedBanditHard",
    "PositionOnlyPendulumEasy",
    "NoisyPositionOnlyPendulumHard",
    "VelocityOnlyCartpoleHard",
)
POPGYM_ENVS = 32


def copy_steps(repeats: int) -> float:
    """Returns the steps per second of 64 batched environments of the copy task."""
    envs = AlgorithmicVectorEnv(64, "copy")
    envs.reset(seed=0)
    actions = np.zeros(envs.action_space.shape or (), dtype=np.int8)

    def thousand() -> None:
        for _ in range(1000):
            envs.step(actions)

    return 64_000 / alternate(repeats, thousand)[0]


def minigrid_steps(repeats: int) -> tuple[float, float]:
    """Returns the steps per second of 16 environments of MiniGrid-MemoryS9: batched ones, and single ones."""
    settings = EnvSettings("MiniGrid-MemoryS9-v0", kwargs={"agent_view_size": 3})
    native, single = (make_vec_env(replace(settings, vectorization=kind), 16, seed=0) for kind in ("native", "sync"))
    actions = np.random.default_rng(0).integers(3, size=(100, 16))

    def play(env: VecEnv) -> None:
        for each in actions:
            env.step(each)

    for env in (native, single):
        env.reset()
    ours, peer = alternate(repeats, partial(play, native), partial(play, single))
    return actions.size / ours, actions.size / peer


def popgym_steps(game: str, repeats: int) -> tuple[float, float]:
    """Returns the steps per second of 32 environments of a game: batched ones, and POPGym's in a `SyncVectorEnv`."""
    env_id = f"popgym-{game}-v0"
    import_family(env_id)
    native = make_native(env_id, POPGYM_ENVS, {})
    original = SyncVectorEnv([partial(gym.make, env_id, disable_env_checker=True)] * POPGYM_ENVS)
    native.action_space.seed(0)
    actions = [native.action_space.sample() for _ in range(1000)]

    def play(env: VectorEnv[Any, Any, Any]) -> None:
        for each in actions:
            env.step(each)

    for env in (native, original):
        env.reset(seed=0)
    ours, peer = alternate(repeats, partial(play, native), partial(play, original), clock=process_time)
    steps = len(actions) * POPGYM_ENVS
    return steps / ours, steps / peer
