"""Policies, recurrent PPO, tracking, checkpoints and the command line.

Importing the package registers the policies by name in `sb3_contrib.RecurrentPPO`.
"""

if __name__ != "ntm_rl.agents":
    raise ImportError(f"import this package as ntm_rl.agents, not as {__name__}")

from ntm_rl.agents.policies import CnnNtmPolicy, MlpNtmPolicy, MultiInputNtmPolicy
from ntm_rl.agents.ppo import MemoryPPO

__all__ = ["CnnNtmPolicy", "MemoryPPO", "MlpNtmPolicy", "MultiInputNtmPolicy"]
