"""Environments with action masks that raise an error for an excluded action."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ntm_rl.envs.state import generator_of, generator_state
from ntm_rl.envs.wrappers.action_masks import MaskFormat

SPACES = {
    "discrete": spaces.Discrete(5, start=2),
    "multi_discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi_binary": spaces.MultiBinary(3),
}


class IllegalActionError(Exception):
    pass


def random_masks(space: spaces.Space[Any], count: int, rng: np.random.Generator) -> np.ndarray:
    """Masks `[count, n]` that allow at least one action."""
    masks = MaskFormat(space)
    allowed = rng.random((count, masks.size)) < 0.5
    kept = masks.sample(np.ones_like(allowed), rng)
    return allowed | one_hot(space, kept)


def one_hot(space: spaces.Space[Any], actions: np.ndarray) -> np.ndarray:
    """The values of all components that actions `[count, ...]` take, `[count, n]` bool."""
    masks = MaskFormat(space)
    values = (actions - getattr(space, "start", 0)).reshape(len(actions), -1).astype(np.int64)
    taken = np.zeros((len(actions), masks.size), dtype=bool)
    taken[np.arange(len(actions))[:, None], values + masks.starts] = True
    return taken


def require_legal(space: spaces.Space[Any], masks: np.ndarray, actions: Any) -> None:
    if (one_hot(space, np.asarray(actions)) & ~masks).any():
        raise IllegalActionError(f"{actions} with masks {masks.astype(int)}")


class Strict(gym.Env):
    """Shows noise; the masks change at every step, and the reward is the share of allowed values.

    Attributes:
        action_masks: A method if `offers` is "method".
    """

    def __init__(self, kind: str = "discrete", offers: str = "method"):
        self.observation_space, self.action_space = spaces.Box(-9, 9, (3,), np.float32), SPACES[kind]
        self.offers = offers
        if offers == "method":
            self.action_masks = lambda: self.mask

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(2, 7))
        return self._next()

    def step(self, action):
        require_legal(self.action_space, self.mask[None], np.asarray(action)[None])
        self.time += 1
        reward = float(self.mask.mean())
        observation, info = self._next()
        return observation, reward, self.time == self.length, False, info

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)

    def _next(self):
        self.mask = random_masks(self.action_space, 1, self.np_random)[0]
        info = {"action_mask": self.mask.astype(np.int8)} if self.offers == "info" else {}
        return self.np_random.normal(size=3).astype(np.float32), info


class Faulty(Strict):
    """Its second state has no mask, or its method raises an error."""

    def __init__(self, how: str):
        super().__init__(offers="info" if how == "info" else "method")
        self.how = how
        if how == "raise":
            self.action_masks = self.fail

    def fail(self):
        if self.time == 1:
            raise AttributeError("none left")
        return self.mask

    def _next(self):
        observation, info = super()._next()
        if self.time == 1 and self.how != "raise":
            self.mask, info = None, {}
        return observation, info


class StrictVector(VectorEnv):
    """`Strict` as a native vector environment, whose state can be saved."""

    def __init__(self, num_envs: int, kind: str = "discrete", offers: str = "method"):
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs, self.offers = num_envs, offers
        self.single_observation_space, self.single_action_space = spaces.Box(-9, 9, (3,), np.float32), SPACES[kind]
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        if offers == "method":
            self.action_masks = lambda: self.masks

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = np.zeros(self.num_envs, np.int64)
        return self._next()

    def step(self, actions):
        require_legal(self.single_action_space, self.masks, actions)
        self.time += 1
        ended = self.time == 2 + np.arange(self.num_envs) % 4
        final, final_info = self._next()
        observations, info = self._next()
        self.time[ended] = 0
        if ended.any():
            ends = {"final_obs": final, "_final_obs": ended, "final_info": final_info, "_final_info": ended}
            info = {**info, **ends}
        return observations, self.masks.mean(axis=1), ended, np.zeros_like(ended), info

    def get_state(self):
        state = {"time": self.time.copy(), "masks": self.masks.copy(), "seen": self.seen.copy()}
        return {**state, "generator": generator_state(self.np_random)}

    def set_state(self, state):
        self.np_random = generator_of(state["generator"])
        self.time, self.masks, self.seen = state["time"], state["masks"], state["seen"]
        return self.seen

    def _next(self):
        self.masks = random_masks(self.single_action_space, self.num_envs, self.np_random)
        self.seen = self.np_random.normal(size=(self.num_envs, 3)).astype(np.float32)
        everyone = np.ones(self.num_envs, dtype=bool)
        info = {"action_mask": self.masks.astype(np.int8), "_action_mask": everyone} if self.offers == "info" else {}
        return self.seen, info
