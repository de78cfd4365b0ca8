"""The default hyperparameters of `MemoryPPO`, its policies, the configs and `ntm-rl train ENV_ID`.

Sizes of rollouts, sequences and minibatches, and the number of epochs, are chosen by `ntm_rl.agents.ppo.sizes`.
"""

from typing import Literal

CORE = "ntm_block"
POPART = True
CRITIC: Literal["shared", "joint", "detached", "separate"] = "shared"
# The actor has to tell neighbouring counts in the memory apart, for which one small layer is too little.
NET_ARCH: dict[str, list[int]] = {"pi": [256, 256], "vf": [256]}
ACTIVATION: Literal["Tanh", "ReLU"] = "ReLU"

LEARNING_RATE = 2e-3
LEARNING_RATE_SCHEDULE: Literal["constant", "linear"] = "linear"
ADAM_EPSILON = 1e-8  # as gradients in a memory core are often below SB3's 1e-5
GAMMA = 0.99
GAE_LAMBDA: float | Literal["auto"] = "auto"
CLIP_RANGE = 0.2
NORMALIZE_ADVANTAGE = True
ENT_COEF = 0.01
VF_COEF = 0.5
MAX_GRAD_NORM = 0.5
RECOMPUTE_STATES = False
