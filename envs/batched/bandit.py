"""POPGym's MultiarmedBandit, all sub-environments stepped at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from ntm_rl.envs.batched.base import BatchedEnv, BoolArray, FloatArray, IntArray


class MultiarmedBandit(BatchedEnv):
    """Pull one of several arms, whose probabilities of a payout are drawn for every episode.

    The observation is whether the last arm paid. A payout scores 1 / steps, none costs as much. (POPGym's `info` also
    holds the probabilities.)

    Args:
        num_envs: Number of sub-environments.
        arms: Number of arms.
        steps: Length of an episode, which is then truncated.
    """

    def __init__(self, num_envs: int, arms: int = 10, steps: int = 200):
        super().__init__(num_envs, spaces.Discrete(2), arms)
        self._arms, self._steps = arms, steps
        self._rewards = np.array([-1 / steps, 1 / steps])
        self._payouts = np.zeros((num_envs, arms), dtype=np.float32)  # the arms' probabilities

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        return {"_time": (0, self._steps - 1), "_payouts": (0, 1)}

    def begin(self, indices: IntArray, options: dict[str, Any]) -> IntArray:
        """See `BatchedEnv.begin`."""
        self._payouts[indices] = self.np_random.random((len(indices), self._arms), dtype=np.float32)
        return np.zeros(len(indices), dtype=np.int64)

    def play(self, actions: IntArray) -> tuple[IntArray, FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        # POPGym compares in float32, too: NumPy rounds a Python float beside a float32.
        draws = self.np_random.random(self.num_envs).astype(np.float32)
        paid = (draws < self._payouts[self._indices, actions]).astype(np.int64)
        return paid, self._rewards[paid], np.zeros(self.num_envs, dtype=np.bool_), self._time == self._steps


BANDIT: dict[str, Callable[[int], MultiarmedBandit]] = {
    "popgym-MultiarmedBanditEasy-v0": partial(MultiarmedBandit, arms=10, steps=200),
    "popgym-MultiarmedBanditMedium-v0": partial(MultiarmedBandit, arms=20, steps=400),
    "popgym-MultiarmedBanditHard-v0": partial(MultiarmedBandit, arms=30, steps=600),
}
