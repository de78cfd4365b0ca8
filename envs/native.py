"""Which ids are played by a native vector environment, and how."""

from collections.abc import Callable
from typing import Any

from gymnasium.vector import VectorEnv

from ntm_rl.envs.batched import BatchedEnv
from ntm_rl.envs.card_games import SCRIPTED_GAMES
from ntm_rl.envs.cartpole import CARTPOLE
from ntm_rl.envs.concentration import CONCENTRATION
from ntm_rl.envs.previous_step import PreviousStepVector

NATIVE: dict[str, Callable[[int], BatchedEnv]] = {**SCRIPTED_GAMES, **CONCENTRATION, **CARTPOLE}


def make_native(
    env_id: str, num_envs: int, previous_action: bool = False, previous_reward: bool = False
) -> VectorEnv[Any, Any, Any]:
    """Makes the native vector environment of an id in `NATIVE`, wrapped like `make_env`'s single ones."""
    envs = NATIVE[env_id](num_envs)
    if previous_action or previous_reward:
        return PreviousStepVector(envs, previous_action, previous_reward)
    return envs
