"""Policies, recurrent PPO, tracking, checkpoints and the command line.

Importing the package registers the policies by name in `sb3_contrib.RecurrentPPO`.
"""

if __name__ != "ntm_rl.agents":
    raise ImportError(f"import this package as ntm_rl.agents, not as {__name__}")

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ntm_rl.agents.policy.files import LoadedAgent, load_agent, save_agent
from ntm_rl.agents.policy.policies import CnnNtmPolicy, MlpNtmPolicy, MultiInputNtmPolicy
from ntm_rl.agents.ppo.algorithm import MemoryPPO

if TYPE_CHECKING:
    from ntm_rl.agents.export.files import export_agent
    from ntm_rl.agents.runs.loading import RunAgent, load_run_agent

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


# These import W&B and pydantic, or torch.export, which the policies do not need.
_LAZY = {
    "RunAgent": "ntm_rl.agents.runs.loading",
    "export_agent": "ntm_rl.agents.export.files",
    "load_run_agent": "ntm_rl.agents.runs.loading",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ntm_rl.agents' has no attribute {name!r}")
