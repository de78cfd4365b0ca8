"""Policies, recurrent PPO, tracking, checkpoints and the command line.

Importing the package registers the policies by name in `sb3_contrib.RecurrentPPO`.
"""

if __name__ != "ntm_rl.agents":
    raise ImportError(f"import this package as ntm_rl.agents, not as {__name__}")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ntm_rl.interrupts import is_command_line

if TYPE_CHECKING:
    from ntm_rl.agents.export.files import export_agent
    from ntm_rl.agents.policy.files import LoadedAgent, load_agent, save_agent
    from ntm_rl.agents.policy.policies import CnnNtmPolicy, MlpNtmPolicy, MultiInputNtmPolicy
    from ntm_rl.agents.ppo.algorithm import MemoryPPO
    from ntm_rl.agents.runs.loading import RunAgent, load_run_agent

_MODULES = {
    "LoadedAgent": "ntm_rl.agents.policy.files",
    "load_agent": "ntm_rl.agents.policy.files",
    "save_agent": "ntm_rl.agents.policy.files",
    "CnnNtmPolicy": "ntm_rl.agents.policy.policies",
    "MlpNtmPolicy": "ntm_rl.agents.policy.policies",
    "MultiInputNtmPolicy": "ntm_rl.agents.policy.policies",
    "MemoryPPO": "ntm_rl.agents.ppo.algorithm",
    "RunAgent": "ntm_rl.agents.runs.loading",
    "export_agent": "ntm_rl.agents.export.files",
    "load_run_agent": "ntm_rl.agents.runs.loading",
}

__all__ = [
    "CnnNtmPolicy",
    "LoadedAgent",
    "MemoryPPO",
    "MlpNtmPolicy",
    "MultiInputNtmPolicy",
    "RunAgent",
    "export_agent",
    "load_agent",
    "load_run_agent",
    "save_agent",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ntm_rl.agents' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


if not is_command_line():  # whose help needs no torch
    import_module("ntm_rl.agents.policy.policies")
