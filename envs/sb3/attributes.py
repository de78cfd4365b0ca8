"""What a `VecEnv` tells of its sub-environments; a user's own class may not be able to tell."""

from collections.abc import Mapping, Sequence
from typing import Any

from stable_baselines3.common.vec_env import VecEnv

NO_ATTRIBUTE = "_no_environment_has_this"


def has_attribute(env: VecEnv, name: str) -> bool:
    """Whether the sub-environments have an attribute; False where the vector environment cannot tell."""
    try:
        # Some classes return None for every name.
        return bool(env.has_attr(name)) and not env.has_attr(NO_ATTRIBUTE)
    except Exception:  # training needs no attributes, so that their errors must not stop it
        return False


def attributes(env: VecEnv, name: str) -> list[Any]:
    """Returns the value of an attribute of each sub-environment; none where the vector environment cannot tell."""
    if not has_attribute(env, name):  # `get_attr` alone ends the worker processes of a SubprocVecEnv
        return []
    try:
        return list(env.get_attr(name))
    except Exception:
        return []


def reset_infos(env: VecEnv) -> Sequence[Mapping[str, Any]]:
    """Returns the infos of the last resets; empty ones of a class that does not keep them."""
    return getattr(env.unwrapped, "reset_infos", None) or [{} for _ in range(env.num_envs)]
