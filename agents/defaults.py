"""The default hyperparameters of `MemoryPPO`, its policies, the configs and `ntm-rl train ENV_ID`.

Sizes of rollouts, sequences and minibatches are chosen by `ntm_rl.agents.ppo.sizes`.
"""

from typing import Any, Literal

CORE = "ntm"
# Options of this core in a policy that differ from the core's own defaults.
CORE_OPTIONS: dict[str, Any] = {}
CRITIC: Literal["shared", "detached", "separate"] = "shared"
NET_ARCH: dict[str, list[int]] = {"pi": [64], "vf": [64]}

LEARNING_RATE = 1e-3
LEARNING_RATE_SCHEDULE: Literal["constant", "linear"] = "linear"
ADAM_EPSILON = 1e-5
N_EPOCHS = 4
GAMMA = 0.99
GAE_LAMBDA = 0.95
CLIP_RANGE = 0.2
NORMALIZE_ADVANTAGE = True
ENT_COEF = 0.01
VF_COEF = 0.5
MAX_GRAD_NORM = 0.5
RECOMPUTE_STATES = False


def core_options(core: str) -> dict[str, Any]:
    """Returns the options of a core in a policy that differ from the core's own defaults."""
    return CORE_OPTIONS if core == CORE else {}
