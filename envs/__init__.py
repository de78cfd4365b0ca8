"""Gymnasium environments and wrappers; only `ntm_rl.envs.sb3` needs more than NumPy and Gymnasium."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "ntm_rl.envs":
    raise ImportError(f"import this package as ntm_rl.envs, not as {__name__}")

if TYPE_CHECKING:
    from ntm_rl.envs.factory import EnvSettings, make_env
    from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
    from ntm_rl.envs.sb3.making import make_vec_env
    from ntm_rl.envs.wrappers.legal_moves import LegalMoves
    from ntm_rl.envs.wrappers.masking import MaskVelocity
    from ntm_rl.envs.wrappers.previous_step import PreviousStep, PreviousStepVector

# Lazy: the adapter imports SB3 and torch, which the environments do not need.
_MODULES = {
    "EnvSettings": "ntm_rl.envs.factory",
    "make_env": "ntm_rl.envs.factory",
    "LegalMoves": "ntm_rl.envs.wrappers.legal_moves",
    "MaskVelocity": "ntm_rl.envs.wrappers.masking",
    "PreviousStep": "ntm_rl.envs.wrappers.previous_step",
    "PreviousStepVector": "ntm_rl.envs.wrappers.previous_step",
    "VectorEnvAdapter": "ntm_rl.envs.sb3.adapter",
    "make_vec_env": "ntm_rl.envs.sb3.making",
}

__all__ = [
    "EnvSettings",
    "LegalMoves",
    "MaskVelocity",
    "PreviousStep",
    "PreviousStepVector",
    "VectorEnvAdapter",
    "make_env",
    "make_vec_env",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ntm_rl.envs' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
