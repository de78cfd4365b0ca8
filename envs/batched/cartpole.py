"""Gymnasium's CartPole and POPGym's versions of it as vector environments."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.utils import maybe_parse_reset_bounds
from numpy.typing import NDArray

from ntm_rl.envs.batched.base import BatchedEnv, BoolArray, FloatArray, IntArray
from ntm_rl.envs.wrappers.masking import POSITIONS

# NumPy multiplies arrays by arrays without dimensions faster than by Python's numbers.
GRAVITY = np.array(9.8)
POLE_MASS = np.array(0.1)
TOTAL_MASS = np.array(POLE_MASS + 1.0)
HALF_LENGTH = np.array(0.5)  # of the pole
POLE_MOMENT = np.array(POLE_MASS * HALF_LENGTH)
FOUR_THIRDS = np.array(4.0 / 3.0)
FORCES = np.array([-10.0, 10.0])  # by action
SECONDS = np.array(0.02)  # per step
MAX_POSITION, MAX_ANGLE = 2.4, 12 * 2 * math.pi / 360
BOUNDS = np.array([MAX_POSITION, np.inf, MAX_ANGLE, np.inf])  # of the state
VELOCITIES = [1, 3]


class CartPole(BatchedEnv):
    """`CartPole-v1` without rendering, bit-identical to Gymnasium's from equal states.

    Gymnasium's own `CartPoleVectorEnv` resets in the step after an episode's end, and SB3 would train on such steps.

    Args:
        num_envs: Number of sub-environments.
        observed: Indices of position, velocity, angle and angular velocity that are observed; None: all.
        first_observed: The same for the first observation of an episode; None: as `observed`.
        time_limit: Steps after which an episode is truncated.
        reward: Reward of every step.
        noise: Standard deviation of Gaussian noise on the observations, which are clipped to their bounds.
    """

    def __init__(
        self,
        num_envs: int,
        observed: list[int] | None = None,
        *,
        time_limit: int = 500,
        reward: float = 1.0,
        noise: float = 0.0,
        first_observed: list[int] | None = None,
    ):
        self._observed = np.array([0, 1, 2, 3] if observed is None else observed)
        self._first_observed = self._observed if first_observed is None else np.array(first_observed)
        self._time_limit, self._noise = time_limit, noise
        self._rewards = np.full(num_envs, reward)
        high = np.array([2 * MAX_POSITION, np.inf, 2 * MAX_ANGLE, np.inf], dtype=np.float32)[self._observed]
        super().__init__(num_envs, spaces.Box(-high, high, dtype=np.float32), 2)
        self._bounds = np.repeat(BOUNDS[:, None], num_envs, axis=1)
        self._state = np.zeros((4, num_envs))  # rows: position, velocity, angle, angular velocity

    def state_bounds(self) -> dict[str, tuple[float, float]]:
        """See `BatchedEnv.state_bounds`."""
        return {"_time": (0, self._time_limit - 1), "_state": (-np.inf, np.inf)}

    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[np.float32]:
        """See `BatchedEnv.begin`; `options` may set the bounds `low` and `high` of the initial state."""
        low, high = maybe_parse_reset_bounds(options, -0.05, 0.05)
        first = self.np_random.uniform(low, high, (len(indices), 4)).T
        self._state[:, indices] = first
        return self._observe(first, self._first_observed)

    def play(self, actions: IntArray) -> tuple[NDArray[np.float32], FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`; the equations are those of https://coneural.org/florian/papers/05_cart_pole.pdf."""
        _, x_dot, theta, theta_dot = self._state
        force = FORCES[actions]
        cosine, sine = np.cos(theta), np.sin(theta)
        # The order of operations is Gymnasium's, for identical rounding.
        push = (force + POLE_MOMENT * np.square(theta_dot) * sine) / TOTAL_MASS
        theta_acc = (GRAVITY * sine - cosine * push) / (
            HALF_LENGTH * (FOUR_THIRDS - POLE_MASS * np.square(cosine) / TOTAL_MASS)
        )
        x_acc = push - POLE_MOMENT * theta_acc * cosine / TOTAL_MASS
        rates = np.empty_like(self._state)  # faster than `np.stack`
        rates[0], rates[1], rates[2], rates[3] = x_dot, x_acc, theta_dot, theta_acc
        self._state = self._state + SECONDS * rates  # Euler's method
        is_out = np.abs(self._state) > self._bounds
        observations = self._observe(self._state, self._observed)
        return observations, self._rewards.copy(), is_out[0] | is_out[2], self._time == self._time_limit

    def _observe(self, state: FloatArray, observed: IntArray) -> NDArray[np.float32]:
        """Returns the observations of states `[4, E]`."""
        observations = state.take(observed, axis=0).T.astype(np.float32, order="C")
        if not self._noise:
            return observations
        space = self.single_observation_space
        assert isinstance(space, spaces.Box)
        noise = self.np_random.normal(0, self._noise, observations.shape).astype(np.float32)
        noisy: NDArray[np.float32] = np.clip(observations + noise, space.low, space.high)
        return noisy


def _popgym(
    time_limit: int, noise: float = 0.0, observed: list[int] = POSITIONS["CartPole"]
) -> Callable[[int], CartPole]:
    """Returns the constructor of a POPGym `CartPole`: a best return of 1.

    The first observation of VelocityOnlyCartpole consists of positions, as in POPGym.
    """
    first, reward = POSITIONS["CartPole"], 1 / time_limit
    return partial(CartPole, observed=observed, first_observed=first, time_limit=time_limit, reward=reward, noise=noise)


CARTPOLE: dict[str, Callable[[int], CartPole]] = {
    "CartPole-v1": CartPole,
    "ntm_rl/CartPoleNoVelocity-v0": partial(CartPole, observed=POSITIONS["CartPole"]),
    "popgym-PositionOnlyCartPoleEasy-v0": _popgym(200),
    "popgym-PositionOnlyCartPoleMedium-v0": _popgym(400),
    "popgym-PositionOnlyCartPoleHard-v0": _popgym(600),
    "popgym-NoisyPositionOnlyCartPoleEasy-v0": _popgym(200, noise=0.1),
    "popgym-NoisyPositionOnlyCartPoleMedium-v0": _popgym(200, noise=0.2),
    "popgym-NoisyPositionOnlyCartPoleHard-v0": _popgym(200, noise=0.3),
    "popgym-VelocityOnlyCartpoleEasy-v0": _popgym(200, observed=VELOCITIES),
    "popgym-VelocityOnlyCartpoleMedium-v0": _popgym(400, observed=VELOCITIES),
    "popgym-VelocityOnlyCartpoleHard-v0": _popgym(600, observed=VELOCITIES),
}
