"""Statistics and random numbers that the ranks of a data-parallel training have in common."""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from ntm_rl.agents.parallel.ranks import Ranks
from ntm_rl.envs.algorithmic.env import AlgorithmicVectorEnv
from ntm_rl.envs.sb3.seeding import SpawnedSeedVecEnv, spawn_seed
from ntm_rl.errors import InputError


class SharedRunningMeanStd(RunningMeanStd):
    """Running statistics over the batches of all ranks, equal to those of one process with all environments.

    Args:
        ranks: The ranks.
        start: The statistics to continue.
    """

    def __init__(self, ranks: Ranks, start: RunningMeanStd):
        self._ranks = ranks
        self.mean, self.var, self.count = start.mean, start.var, start.count

    def update(self, arr: np.ndarray) -> None:
        """Adds a batch `[E, ...]` of each rank."""
        super().update(self._ranks.gather_array(arr))


class EndedEpisodes:
    """The statistics of episodes that end in a rollout, until all ranks have them."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, Any, Any]] = []

    def add(self, step: int, first_env: int, infos: Sequence[Mapping[str, Any]], dones: np.ndarray | None) -> None:
        """Adds the episodes in the infos of a step.

        Args:
            step: Step of the rollout.
            first_env: Index of the rank's first environment among those of all ranks.
            infos: Infos `[E]`, as SB3's `_update_info_buffer` reads them.
            dones: `[E]` bool.
        """
        for index, info in enumerate(infos):
            success = info.get("is_success") if dones is not None and dones[index] else None
            if info.get("episode") is not None or success is not None:
                self._rows.append((step, first_env + index, info.get("episode"), success))

    def share(self, ranks: Ranks, episodes: "deque[Any] | None", successes: "deque[Any] | None") -> None:
        """Appends the episodes of all ranks to SB3's buffers in the order in which they ended, and forgets them."""
        assert episodes is not None and successes is not None
        rows = [row for each in ranks.gather_objects(self._rows) for row in each]
        for _, _, episode, success in sorted(rows, key=lambda row: row[:2]):
            if episode is not None:
                episodes.append(episode)
            if success is not None:
                successes.append(success)
        self._rows = []


def share_training(ranks: Ranks, env: VecEnv, policy: nn.Module, normalizer: VecNormalize | None) -> None:
    """Gives all ranks the first one's weights and generator, and statistics over all environments.

    Raises:
        InputError: the ranks have different numbers of environments.
    """
    if ranks.size == 1:
        return
    counts = ranks.gather_objects(env.num_envs)
    if len(set(counts)) > 1:
        raise InputError(f"n_envs = {counts} of the ranks: must be equal")
    ranks.share(*policy.state_dict().values())
    share_generator(ranks)
    if normalizer is not None:
        _share_normalizer(ranks, normalizer)
    _share_curriculum(ranks, env)


def share_generator(ranks: Ranks) -> None:
    """Gives all ranks the state of the first one's torch generator, in case an environment has used it."""
    if ranks.size > 1:
        state = torch.get_rng_state()
        ranks.share(state)
        torch.set_rng_state(state)


def _share_normalizer(ranks: Ranks, normalizer: VecNormalize) -> None:
    def shared(statistics: RunningMeanStd) -> RunningMeanStd:
        return statistics if isinstance(statistics, SharedRunningMeanStd) else SharedRunningMeanStd(ranks, statistics)

    if normalizer.norm_obs:
        parts = normalizer.obs_rms
        normalizer.obs_rms = (
            {key: shared(part) for key, part in parts.items()} if isinstance(parts, dict) else shared(parts)
        )
    normalizer.ret_rms = shared(normalizer.ret_rms)


def _share_curriculum(ranks: Ranks, env: VecEnv) -> None:
    """Shares the curriculum that the environments of each rank share, as native ones do."""
    native = getattr(env.unwrapped, "envs", None)
    if isinstance(native, VectorEnv) and isinstance(native.unwrapped, AlgorithmicVectorEnv):
        native.unwrapped.curriculum.gather = ranks.gather_array


def seed_ranks(ranks: Ranks, env: VecEnv | None, seed: int | None) -> None:
    """Gives environments the seeds of a training of one process, and each rank its own generators of Python and NumPy.

    torch's generator stays the same on all ranks, which sample actions and minibatches with it.
    """
    if ranks.size == 1:
        return
    if env is not None:
        seed_environments(ranks, env, seed)
    if seed is not None and not ranks.is_first:
        seed_host_generators(spawn_seed(seed, 0, ranks.rank))


def seed_environments(ranks: Ranks, env: VecEnv, seed: int | None) -> None:
    """Seeds this rank's environments as one process with the environments of all ranks seeds them.

    Without a seed, those with which a script seeded the environments, which are the same on all ranks, are replaced.
    """
    first, inner = ranks.rank * env.num_envs, env.unwrapped
    if isinstance(inner, SpawnedSeedVecEnv):
        inner.first_index, first = first, 0
        seed = inner.base_seed if seed is None else seed
    if seed is not None:
        env.seed(seed + first)
    else:
        inner._seeds = [None if each is None else each + first for each in inner._seeds]


def seed_host_generators(seed: int) -> None:
    """Seeds the generators of Python and NumPy, which environments may use."""
    random.seed(seed)
    np.random.seed(seed)
