"""Seeds of the copies of an environment: independent ones, spawned from the seed of the run."""

from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.errors import InputError

BITS = 30  # what C libraries with signed 32-bit seeds, such as ALE, take too


def spawn_seed(seed: int, *path: int) -> int:
    """Returns the seed of descendant `path` of `seed`, from 0 to 2^30 - 1, by NumPy's `SeedSequence`.

    Raises:
        InputError: a negative seed.
    """
    if seed < 0:
        raise InputError(f"seed = {seed}: must be at least 0")
    return int(np.random.SeedSequence(seed, spawn_key=path).generate_state(1)[0]) >> (32 - BITS)


class SpawnedSeedVecEnv(VecEnv):
    """A `VecEnv` that seeds copy i with `spawn_seed(seed, i)`, whatever the number of copies.

    SB3 seeds it with `seed + i`: runs with the seeds 0 and 1 would then share the episodes of all copies but one.
    """

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds all copies at their next reset; None: at random."""
        if seed is None:
            seed = int(np.random.randint(2**BITS))
        self._seeds = [spawn_seed(seed, copy) for copy in range(self.num_envs)]
        return self._seeds
