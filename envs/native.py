"""The native vector environments by id."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from gymnasium.vector import VectorEnv

from ntm_rl.envs.algorithmic.env import AlgorithmicVectorEnv
from ntm_rl.envs.batched.atari import EVALUATION_OPTIONS, PREFIX, AtariVectorEnv
from ntm_rl.envs.batched.bandit import BANDIT
from ntm_rl.envs.batched.board_games import BOARD_GAMES
from ntm_rl.envs.batched.card_games import SCRIPTED_GAMES
from ntm_rl.envs.batched.cartpole import CARTPOLE
from ntm_rl.envs.batched.concentration import CONCENTRATION
from ntm_rl.envs.batched.minigrid_memory import MINIGRID_MEMORY, MiniGridMemoryVectorEnv
from ntm_rl.envs.batched.pendulum import PENDULUM
from ntm_rl.envs.factory import EnvSettings, make_env, rom_of
from ntm_rl.envs.memory.color_cubes import ColorCubesVectorEnv
from ntm_rl.envs.memory.endless_tmaze import EndlessTMazeVectorEnv
from ntm_rl.envs.memory.memory_chain import MemoryChainVectorEnv
from ntm_rl.envs.memory.passive_tmaze import PassiveTMazeVectorEnv
from ntm_rl.envs.registration import ALGORITHMIC
from ntm_rl.envs.wrappers.previous_step import PreviousStepVector
from ntm_rl.errors import InputError, did_you_mean


def _minigrid_memory(env_id: str, num_envs: int, **kwargs: Any) -> MiniGridMemoryVectorEnv:
    return MiniGridMemoryVectorEnv(num_envs, make_env(EnvSettings(env_id, kwargs)))


# Ids whose vector environment takes the keyword arguments of the single environment.
CONFIGURABLE: dict[str, Callable[..., VectorEnv[Any, Any, Any]]] = {
    **{f"ntm_rl/{name}": partial(AlgorithmicVectorEnv, task=task) for name, task in ALGORITHMIC.items()},
    "ntm_rl/PassiveTMaze-v0": PassiveTMazeVectorEnv,
    "ntm_rl/MemoryChain-v0": MemoryChainVectorEnv,
    "ntm_rl/EndlessTMaze-v0": EndlessTMazeVectorEnv,
    "ntm_rl/ColorCubes-v0": ColorCubesVectorEnv,
    **{env_id: partial(_minigrid_memory, env_id) for env_id in MINIGRID_MEMORY},
}
NATIVE: dict[str, Callable[..., VectorEnv[Any, Any, Any]]] = {
    **SCRIPTED_GAMES,
    **CONCENTRATION,
    **BOARD_GAMES,
    **BANDIT,
    **CARTPOLE,
    **PENDULUM,
    **CONFIGURABLE,
}


def is_atari(env_id: str) -> bool:
    """Whether an id is one of ALE's."""
    return env_id.startswith(PREFIX)


def is_native(env_id: str) -> bool:
    """Whether an id has a native vector environment."""
    return env_id in NATIVE or is_atari(env_id)


def takes_kwargs(env_id: str) -> bool:
    """Whether an id's native vector environment takes keyword arguments."""
    return env_id in CONFIGURABLE or is_atari(env_id)


def make_native(
    env_id: str,
    num_envs: int,
    kwargs: dict[str, Any],
    previous_action: bool = False,
    previous_reward: bool = False,
    training: bool = True,
) -> VectorEnv[Any, Any, Any]:
    """Makes the native vector environment of an id with `is_native`, wrapped as `make_env` wraps single ones.

    Raises:
        InputError: unknown game or invalid keyword arguments.
    """
    if env_id in MINIGRID_MEMORY:
        make_env(EnvSettings(env_id, kwargs)).close()  # raises the better error message
    game = rom_of(env_id) if is_atari(env_id) else None
    try:
        envs = _atari(game, num_envs, kwargs, training) if game else NATIVE[env_id](num_envs, **kwargs)
    except (TypeError, InputError) as error:
        raise InputError(f"env.kwargs = {kwargs}: invalid for {env_id}: {error}") from error
    if previous_action or previous_reward:
        return PreviousStepVector(envs, previous_action, previous_reward)
    return envs


def _atari(game: str, num_envs: int, kwargs: dict[str, Any], training: bool) -> AtariVectorEnv:
    options = [name for name in inspect.signature(AtariVectorEnv).parameters if name not in ("num_envs", "game")]
    for key in kwargs:
        if key not in options:
            raise InputError(f"unknown option {key!r}.{did_you_mean(key, options) or ' Valid: ' + ', '.join(options)}")
    return AtariVectorEnv(num_envs, game=game, **{**kwargs, **({} if training else EVALUATION_OPTIONS)})
