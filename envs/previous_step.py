"""Lets the previous action and reward join the observation."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class PreviousStep(gym.Wrapper[dict[str, Any], Any, Any, Any], RecordConstructorArgs):
    """Makes the observation a Dict that also holds what the agent did last, and what it got for it.

    Keys: `observation` (or the keys of a Dict observation), `previous_action` (one-hot for discrete actions, as it is
    for Box actions) and `previous_reward` `[1]`. All are zero at the start of an episode.

    Args:
        env: The environment to wrap.
        action: Add the previous action.
        reward: Add the previous reward.
    """

    def __init__(self, env: gym.Env[Any, Any], action: bool = True, reward: bool = True):
        RecordConstructorArgs.__init__(self, action=action, reward=reward)
        gym.Wrapper.__init__(self, env)
        own = env.observation_space
        parts = dict(own.spaces) if isinstance(own, spaces.Dict) else {"observation": own}
        self._is_dict = isinstance(own, spaces.Dict)
        self._action, self._reward = action, reward
        if action:
            low, high = (
                (env.action_space.low.ravel(), env.action_space.high.ravel())
                if isinstance(env.action_space, spaces.Box)
                else (0, 1)
            )
            low, high = np.minimum(low, 0), np.maximum(high, 0)  # zero stands for "none yet"
            shape = (spaces.flatdim(env.action_space),)
            parts["previous_action"] = spaces.Box(low, high, shape, np.float32)
        if reward:
            parts["previous_reward"] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = spaces.Dict(parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Starts an episode with no previous step."""
        observation, info = self.env.reset(seed=seed, options=options)
        nothing = np.zeros(spaces.flatdim(self.env.action_space), dtype=np.float32)
        return self._join(observation, nothing, 0.0), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Steps, and remembers the action and its reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        taken = np.asarray(spaces.flatten(self.env.action_space, action), dtype=np.float32)
        return self._join(observation, taken, float(reward)), reward, terminated, truncated, info

    def _join(self, observation: Any, action: NDArray[np.float32], reward: float) -> dict[str, Any]:
        joined = dict(observation) if self._is_dict else {"observation": observation}
        if self._action:
            joined["previous_action"] = action
        if self._reward:
            joined["previous_reward"] = np.array([reward], dtype=np.float32)
        return joined
