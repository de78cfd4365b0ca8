"""Converts vector environments with `AutoresetMode.NEXT_STEP`, whose reset steps SB3 does not support."""

import copy
import warnings
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from ntm_rl.errors import InputError


def autoreset_mode(envs: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Returns the autoreset mode of a vector environment; Gymnasium's default is `NEXT_STEP`."""
    return AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def without_reset_steps(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    """Returns an equivalent vector environment without steps that only reset.

    `SyncVectorEnv` and `AsyncVectorEnv` can reset on demand in every mode. Others are replaced by a `SyncVectorEnv` of
    the same id, with a warning.

    Raises:
        InputError: the environment has `NEXT_STEP` and no spec from which it could be replaced.
    """
    if autoreset_mode(envs) is not AutoresetMode.NEXT_STEP or isinstance(
        envs.unwrapped, (SyncVectorEnv, AsyncVectorEnv)
    ):
        return envs
    singles = _as_sync(envs) if envs is envs.unwrapped and envs.spec is not None else None
    if singles is None:
        raise InputError(
            f"autoreset_mode = NEXT_STEP of {envs}: SB3 would train on its reset steps; construct it with "
            "AutoresetMode.SAME_STEP or DISABLED, or step single environments: "
            "VectorEnvAdapter(gymnasium.make_vec(id, n, vectorization_mode='sync')), in configs env.vectorization: sync"
        )
    warnings.warn(
        f"{envs} resets in the step after an episode's end, on which SB3 would train; it is replaced by single "
        f"environments, as gymnasium.make_vec({singles.spec.id if singles.spec else ''!r}, {envs.num_envs}, "
        "vectorization_mode='sync') does",
        stacklevel=3,
    )
    return singles


def _as_sync(envs: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any] | None:
    """Makes a `SyncVectorEnv` of `envs.spec`; None if its spaces differ, as for Atari's raw frames."""
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
