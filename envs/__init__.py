"""Gymnasium environments and wrappers: NumPy only, apart from the one adapter to SB3's `VecEnv`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "ntm_rl.envs":
    raise ImportError(f"import this package as ntm_rl.envs, not as {__name__}")

if TYPE_CHECKING:
    from ntm_rl.envs.factory import EnvSettings, make_env
    from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
    from ntm_rl.envs.sb3.making import make_vec_env
    from ntm_rl.envs.wrappers.masking import MaskVelocity
    from ntm_rl.envs.wrappers.previous_step import PreviousStep, PreviousStepVector

# The adapter loads SB3 and with it torch; the environments alone do not.
_HOME = {
    "EnvSettings": "ntm_rl.envs.factory",
    "make_env": "ntm_rl.envs.factory",
    "MaskVelocity": "ntm_rl.envs.wrappers.masking",
    "PreviousStep": "ntm_rl.envs.wrappers.previous_step",
    "PreviousStepVector": "ntm_rl.envs.wrappers.previous_step",
    "VectorEnvAdapter": "ntm_rl.envs.sb3.adapter",
    "make_vec_env": "ntm_rl.envs.sb3.making",
}

__all__ = [
    "EnvSettings",
    "MaskVelocity",
    "PreviousStep",
    "PreviousStepVector",
    "VectorEnvAdapter",
    "make_env",
    "make_vec_env",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ntm_rl.envs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
