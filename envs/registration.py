"""The package's own Gymnasium ids, registered by `import ntm_rl`."""

import gymnasium as gym
from gymnasium.envs.registration import WrapperSpec

# Control tasks without velocities: our name, and the id of the task that is masked.
NO_VELOCITY = {
    "CartPoleNoVelocity-v0": "CartPole-v1",
    "PendulumNoVelocity-v0": "Pendulum-v1",
    "MountainCarContinuousNoVelocity-v0": "MountainCarContinuous-v0",
    "LunarLanderNoVelocity-v0": "LunarLander-v3",
}
# The masked id of each such task.
MASKED = {original: f"ntm_rl/{name}" for name, original in NO_VELOCITY.items()}

# Algorithmic tasks: our name, and the task's; their classes in `envs/algorithmic/` say what they are.
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

# Diagnostic environments of memory: our name, and what the names of their two classes begin with.
DIAGNOSTIC = {
    "PassiveTMaze-v0": "ntm_rl.envs.memory.passive_tmaze:PassiveTMaze",
    "MemoryChain-v0": "ntm_rl.envs.memory.memory_chain:MemoryChain",
    "EndlessTMaze-v0": "ntm_rl.envs.memory.endless_tmaze:EndlessTMaze",
    "ColorCubes-v0": "ntm_rl.envs.memory.color_cubes:ColorCubes",
}


def register_environments() -> None:
    """Registers the ids by the name of what makes them: nothing but Gymnasium is imported."""
    for name, original_id in NO_VELOCITY.items():
        original = gym.registry.get(original_id)
        if original is None:  # Gymnasium drops a version when it adds the next: `import ntm_rl` must survive that
            continue
        gym.register(
            f"ntm_rl/{name}",
            entry_point=original.entry_point,
            reward_threshold=original.reward_threshold,
            max_episode_steps=original.max_episode_steps,
            disable_env_checker=True,  # it costs a share of every step
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
