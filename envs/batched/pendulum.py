"""POPGym's Pendulums, all sub-environments stepped at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.envs.batched.base import BatchedEnv, BoolArray, FloatArray, IntArray
from ntm_rl.errors import InputError

GRAVITY = 10.0
SECONDS = 0.05  # of a step
MAX_SPEED, MAX_TORQUE = 8, 2.0
MAX_COST = 16.2736044  # of a step
FIRST_ANGLE, FIRST_SPEED = np.pi, 1.0  # bounds of the first state


class PositionOnlyPendulum(BatchedEnv):
    """Gymnasium's `Pendulum-v1` without the angular velocity, with POPGym's rewards.

    Observations are the cosine and the sine of the angle. A step pays `(1 - 2 cost / MAX_COST) / time_limit`, so that
    returns lie between -1 and 1. The same states, actions and noise give POPGym's observations to the last bit, and its
    rewards up to rounding: Gymnasium squares numbers by `pow`.

    Args:
        num_envs: Number of sub-environments.
        time_limit: Steps after which an episode is truncated.
        noise: Standard deviation of the noise added to observations, which are clipped to their bounds.
    """

    def __init__(self, num_envs: int, *, time_limit: int = 200, noise: float = 0.0):
        torque = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
        super().__init__(num_envs, spaces.Box(-1, 1, (2,), np.float32), torque)
        self._time_limit, self._noise = time_limit, noise
        self._angle, self._speed = np.zeros((2, num_envs))

    def state_bounds(self) -> dict[str, tuple[float, float]]:
        """See `BatchedEnv.state_bounds`."""
        return {
            "_time": (0, self._time_limit - 1),
            "_angle": (-np.inf, np.inf),
            "_speed": (-MAX_SPEED, MAX_SPEED),
        }

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`."""
        bounds = np.array([FIRST_ANGLE, FIRST_SPEED])
        self._angle[indices], self._speed[indices] = self.np_random.uniform(-bounds, bounds, (len(indices), 2)).T
        return self._observe(indices)

    def check_actions(self, actions: Any) -> NDArray[np.float32]:
        """See `BatchedEnv.check_actions`; torques out of bounds are clipped, as in Gymnasium."""
        torques = np.asarray(actions, dtype=np.float32)
        if torques.shape != self.action_space.shape or not np.isfinite(torques).all():
            raise InputError(f"actions = {actions}: must be {self.num_envs} elements of {self.single_action_space}")
        return np.clip(torques, np.float32(-MAX_TORQUE), np.float32(MAX_TORQUE))

    def play(self, actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        angle, speed, torque = self._angle, self._speed, actions[:, 0]
        upright = (angle + np.pi) % (2 * np.pi) - np.pi  # 0 at the top
        # Gymnasium's order of operations, so that rounding is the same.
        costs = upright**2 + 0.1 * speed**2 + 0.001 * torque**2
        acceleration = 3 * GRAVITY / 2 * np.sin(angle) + 3.0 * torque
        self._speed = np.clip(speed + acceleration * SECONDS, -MAX_SPEED, MAX_SPEED)
        self._angle = angle + self._speed * SECONDS
        rewards = (MAX_COST / 2 - costs) / (MAX_COST / 2) / self._time_limit
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        return self._observe(self._indices), rewards, terminated, self._time == self._time_limit

    def _observe(self, indices: IntArray) -> NDArray[np.float32]:
        angle = self._angle[indices]
        seen = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        if not self._noise:
            return seen
        noise = self.np_random.normal(0, self._noise, seen.shape).astype(np.float32)
        noisy: NDArray[np.float32] = np.clip(seen + noise, np.float32(-1), np.float32(1))
        return noisy


PENDULUM: dict[str, Callable[[int], PositionOnlyPendulum]] = {
    "popgym-PositionOnlyPendulumEasy-v0": PositionOnlyPendulum,
    "popgym-PositionOnlyPendulumMedium-v0": partial(PositionOnlyPendulum, time_limit=150),
    "popgym-PositionOnlyPendulumHard-v0": partial(PositionOnlyPendulum, time_limit=100),
    "popgym-NoisyPositionOnlyPendulumEasy-v0": partial(PositionOnlyPendulum, noise=0.1),
    "popgym-NoisyPositionOnlyPendulumMedium-v0": partial(PositionOnlyPendulum, noise=0.2),
    "popgym-NoisyPositionOnlyPendulumHard-v0": partial(PositionOnlyPendulum, noise=0.3),
}
