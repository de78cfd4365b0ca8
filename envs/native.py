"""Which ids are played by a native vector environment, and how."""

from collections.abc import Callable
from functools import partial
from typing import Any

from gymnasium.vector import VectorEnv

from ntm_rl.envs.algorithmic.env import AlgorithmicVectorEnv
from ntm_rl.envs.card_games import SCRIPTED_GAMES
from ntm_rl.envs.cartpole import CARTPOLE
from ntm_rl.envs.concentration import CONCENTRATION
from ntm_rl.envs.previous_step import PreviousStepVector
from ntm_rl.envs.registration import ALGORITHMIC
from ntm_rl.errors import InputError

# Those that take the same keyword arguments as their single environments.
CONFIGURABLE: dict[str, Callable[..., VectorEnv[Any, Any, Any]]] = {
    f"ntm_rl/{name}": partial(AlgorithmicVectorEnv, task=task) for name, task in ALGORITHMIC.items()
}
NATIVE: dict[str, Callable[..., VectorEnv[Any, Any, Any]]] = {
    **SCRIPTED_GAMES,
    **CONCENTRATION,
    **CARTPOLE,
    **CONFIGURABLE,
}


def make_native(
    env_id: str, num_envs: int, kwargs: dict[str, Any], previous_action: bool = False, previous_reward: bool = False
) -> VectorEnv[Any, Any, Any]:
    """Makes the native vector environment of an id in `NATIVE`, wrapped like `make_env`'s single ones.

    Raises:
        InputError: keyword arguments that it does not take.
    """
    try:
        envs = NATIVE[env_id](num_envs, **kwargs)
    except (TypeError, InputError) as error:
        raise InputError(f"env.kwargs = {kwargs}: {env_id} does not take them: {error}") from error
    if previous_action or previous_reward:
        return PreviousStepVector(envs, previous_action, previous_reward)
    return envs
