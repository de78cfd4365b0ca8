"""Bootstrapping from the terminal observations of truncated episodes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.diagnosis import check_terminal_observations
from ntm_rl.agents.ppo.rollout import Rollout


@torch.no_grad()
def truncation_bonus(
    policy: MlpNtmPolicy,
    rollout: Rollout,
    infos: Sequence[Mapping[str, Any]],
    dones: np.ndarray,
    state: Tensor,
    gamma: float,
) -> np.ndarray:
    """Returns `[E]` discounted values of the terminal observations of truncated episodes, 0 elsewhere.

    Args:
        policy: The policy.
        rollout: The rollout, at its current step.
        infos: Infos of the step.
        dones: Whether the step ended an episode, `[E]` bool.
        state: Memory states after the step, before the terminal observations are read.
        gamma: Discount factor.

    Raises:
        NonFiniteError: a terminal observation is not finite.
    """
    bonus = np.zeros(len(dones), dtype=np.float32)
    truncated = [
        index
        for index in np.flatnonzero(dones).tolist()
        if infos[index].get("TimeLimit.truncated") and infos[index].get("terminal_observation") is not None
    ]
    if truncated:
        last = rollout.stack([infos[index]["terminal_observation"] for index in truncated])
        check_terminal_observations(last, truncated, rollout.pos)
        no_reset = torch.zeros(len(truncated), dtype=torch.bool, device=rollout.device)
        bonus[truncated] = gamma * policy.values(last, state[truncated], no_reset).cpu().numpy()
    return bonus
