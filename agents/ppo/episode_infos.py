"""Steps of an environment, and checks of the infos from which SB3 computes statistics."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv


def step_vec_env(env: VecEnv, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Steps an environment; converts its rewards to `[E]` float32 and its dones to `[E]` bool."""
    new_obs, rewards, dones, infos = env.step(actions)
    rewards = np.asarray(rewards, dtype=np.float32).reshape(env.num_envs)
    return new_obs, rewards, np.asarray(dones).astype(np.bool_, copy=False).reshape(env.num_envs), infos


def valid_infos(infos: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Returns infos without invalid entries under the keys that SB3 reserves for statistics."""
    if not any(key in info for info in infos for key in RESERVED):
        return infos
    return [_without_invalid(info) if info else info for info in infos]


def _without_invalid(info: dict[str, Any]) -> dict[str, Any]:
    invalid = [key for key, (is_valid, _) in RESERVED.items() if info.get(key) is not None and not is_valid(info[key])]
    for key in invalid:
        warnings.warn(
            f"info[{key!r}] of the environment's step is ignored: Stable-Baselines3 expects {RESERVED[key][1]} there; "
            "use another key",
            stacklevel=2,
        )
    return {key: value for key, value in info.items() if key not in invalid} if invalid else info


def _is_number(value: Any) -> bool:
    if isinstance(value, (int, float)):
        return True
    array = np.asarray(value)
    return array.shape == () and array.dtype.kind in "biuf"


def _is_episode(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(value.get(key)) for key in ("r", "l"))


# The keys that SB3 reads: a check of the value, and its meaning.
RESERVED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "episode": (_is_episode, "the return r, length l and time t of a finished episode"),
    "is_success": (_is_number, "a number or bool"),
}
