"""Independent seeds of sub-environments, spawned from the seed of the run."""

from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.errors import InputError

BITS = 30  # fits the signed 32-bit seeds of C libraries such as ALE


def spawn_seed(seed: int, *path: int) -> int:
    """Returns the seed of descendant `path` of `seed`, from 0 to 2^30 - 1, by NumPy's `SeedSequence`.

    Raises:
        InputError: the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed = {seed}: must be at least 0")
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1)[0]) >> (32 - BITS)


class SpawnedSeedVecEnv(VecEnv):
    """A `VecEnv` that seeds sub-environment i with `spawn_seed(seed, first_index + i)`.

    SB3 uses `seed + i`, with which runs with the seeds 0 and 1 share the episodes of all sub-environments but one.

    Attributes:
        first_index: Index of the first sub-environment; above 0 if other processes have those before it.
        base_seed: The seed from which those of the sub-environments were spawned last.
    """

    first_index = 0
    base_seed: int | None = None

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds all sub-environments at their next reset; None: with a random seed."""
        if seed is None:
            seed = int(np.random.randint(2**BITS))
        self.base_seed = seed
        self._seeds = [spawn_seed(seed, self.first_index + index) for index in range(self.num_envs)]
        return self._seeds
