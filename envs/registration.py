"""The package's own Gymnasium ids, registered by `import ntm_rl`."""

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

# Control tasks without velocities: name in this package and id of the original.
NO_VELOCITY = {
    "CartPoleNoVelocity-v0": "CartPole-v1",
    "PendulumNoVelocity-v0": "Pendulum-v1",
    "MountainCarContinuousNoVelocity-v0": "MountainCarContinuous-v0",
    "LunarLanderNoVelocity-v0": "LunarLander-v3",
}
# This package's id of each original.
MASKED = {original: f"ntm_rl/{name}" for name, original in NO_VELOCITY.items()}

# Algorithmic tasks: name in this package and name in `envs/algorithmic/registry.py`.
ALGORITHMIC = {
    "Copy-v0": "copy",
    "RepeatCopy-v0": "repeat_copy",
    "AssociativeRecall-v0": "associative_recall",
    "DynamicNGrams-v0": "dynamic_ngrams",
    "PrioritySort-v0": "priority_sort",
    "Reverse-v0": "reverse",
    "SortByKey-v0": "sort_by_key",
    "Addition-v0": "addition",
}

# Diagnostic environments: name in this package and common prefix of the two classes.
DIAGNOSTIC = {
    "PassiveTMaze-v0": "ntm_rl.envs.memory.passive_tmaze:PassiveTMaze",
    "MemoryChain-v0": "ntm_rl.envs.memory.memory_chain:MemoryChain",
    "EndlessTMaze-v0": "ntm_rl.envs.memory.endless_tmaze:EndlessTMaze",
    "ColorCubes-v0": "ntm_rl.envs.memory.color_cubes:ColorCubes",
}


def register_environments() -> None:
    """Registers the ids with entry points by name, so that only Gymnasium is imported."""
    for name, original_id in NO_VELOCITY.items():
        original = gym.registry.get(original_id)
        if original is None:  # newer Gymnasium versions drop old ids
            continue
        gym.register(
            f"ntm_rl/{name}",
            entry_point=original.entry_point,
            reward_threshold=original.reward_threshold,
            max_episode_steps=original.max_episode_steps,
            disable_env_checker=True,  # slow
            additional_wrappers=(
                WrapperSpec("MaskVelocity", "ntm_rl.envs.wrappers.masking:MaskVelocity", {"task": original.name}),
            ),
            kwargs=dict(original.kwargs),
        )
    for name, task in ALGORITHMIC.items():
        gym.register(
            f"ntm_rl/{name}",
            entry_point="ntm_rl.envs.algorithmic.env:AlgorithmicEnv",
            vector_entry_point="ntm_rl.envs.algorithmic.env:AlgorithmicVectorEnv",
            disable_env_checker=True,
            kwargs={"task": task},
        )
    for name, kind in DIAGNOSTIC.items():
        gym.register(
            f"ntm_rl/{name}",
            entry_point=f"{kind}Env",
            vector_entry_point=f"{kind}VectorEnv",
            disable_env_checker=True,
        )
