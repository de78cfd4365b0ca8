"""Vector environments whose copies reset in the step after an episode's end, for which SB3 has no place."""

import copy
import warnings
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from ntm_rl.errors import InputError


def autoreset_mode(envs: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Returns when the copies of a vector environment reset; Gymnasium's default is `NEXT_STEP`."""
    return AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def without_reset_steps(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Returns a vector environment that plays the same without steps that only reset.

    `SyncVectorEnv` and `AsyncVectorEnv` reset on demand in every mode. What steps all its copies at once does not: it
    is made anew as single copies, with a warning.

    Raises:
        InputError: it resets in the step after (`NEXT_STEP`), and nothing tells how to make it anew.
    """
    if autoreset_mode(envs) is not AutoresetMode.NEXT_STEP or isinstance(
        envs.unwrapped, (SyncVectorEnv, AsyncVectorEnv)
    ):
        return envs
    singles = _single_copies(envs) if envs is envs.unwrapped and envs.spec is not None else None
    if singles is None:
        raise InputError(
            f"autoreset_mode = NEXT_STEP of {envs}: its reset steps would be trained on; construct it with "
            "AutoresetMode.SAME_STEP or DISABLED, or step single environments: "
            "VectorEnvAdapter(gymnasium.make_vec(id, n, vectorization_mode='sync')), in configs env.vectorization: sync"
        )
    warnings.warn(
        f"{envs} resets in the step after an episode's end, which would be trained on: it is made anew as single "
        f"copies, as gymnasium.make_vec({singles.spec.id if singles.spec else ''!r}, {envs.num_envs}, "
        "vectorization_mode='sync') does",
        stacklevel=3,
    )
    return singles


def _single_copies(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any] | None:
    """Makes the environment of `envs.spec` as single copies; None if they differ, as Atari's raw frames do."""
    spec = copy.deepcopy(envs.spec)
    assert spec is not None
    for key in ("num_envs", "vectorization_mode"):
        spec.kwargs.pop(key, None)
    if spec.entry_point is None:
        return None
    singles = gym.make_vec(
        spec,
        envs.num_envs,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
    )
    same = (
        singles.single_observation_space == envs.single_observation_space
        and singles.single_action_space == envs.single_action_space
    )
    if same:
        return singles
    singles.close()
    return None
