"""Warns of algorithms that ignore the action masks of their environment."""

import sys
import warnings

from sb3_contrib import RecurrentPPO

from ntm_rl.envs.sb3.action_masks import offers_masks


def warn_of_ignored_masks() -> None:
    """Warns if `sb3_contrib.RecurrentPPO`, which has no action masks, calls the policy on an environment with masks."""
    model = _calling_model()
    if model is not None and model.env is not None and offers_masks(model.env):
        warnings.warn(
            "sb3_contrib.RecurrentPPO ignores the environment's action masks: it takes excluded actions and learns "
            "from them. Use ntm_rl.MemoryPPO.",
            stacklevel=2,
        )


def _calling_model() -> RecurrentPPO | None:
    """Returns the algorithm that calls the policy, to which it passes neither itself nor its environment."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        owner = frame.f_locals.get("self")
        if isinstance(owner, RecurrentPPO):
            return owner if type(owner).collect_rollouts is RecurrentPPO.collect_rollouts else None
    return None
