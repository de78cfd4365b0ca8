"""Adds the previous action and reward to the observation."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ntm_rl.envs.state import Resumable, State, array_of, part_of
from ntm_rl.envs.wrappers.observations import row
from ntm_rl.errors import InputError


class PreviousStepEncoding:
    """The space and encoding of observations with the previous step, for single and batched observations.

    Args:
        observation_space: Observation space of a single environment.
        action_space: Action space of a single environment.
        action: Add the previous action.
        reward: Add the previous reward.

    Raises:
        InputError: the observation already has a key of that name.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], action: bool, reward: bool
    ):
        self.is_dict = isinstance(observation_space, spaces.Dict)
        parts: dict[str, spaces.Space[Any]] = {"observation": observation_space}
        if isinstance(observation_space, spaces.Dict):
            parts = dict(observation_space.spaces)
        self.action, self.reward = action, reward
        self.action_space, self.action_size = action_space, int(spaces.flatdim(action_space))
        for name, wanted in (("previous_action", action), ("previous_reward", reward)):
            if wanted and name in parts:
                raise InputError(f"{name} = True: the observation already has a key of that name: {list(parts)}")
        if action:
            low, high = np.zeros(self.action_size), np.ones(self.action_size)
            if isinstance(action_space, spaces.Box):  # includes 0, the value before the first action
                low, high = np.minimum(action_space.low.ravel(), 0), np.maximum(action_space.high.ravel(), 0)
            parts["previous_action"] = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        if reward:
            parts["previous_reward"] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.space = spaces.Dict(parts)
        self._one_hot = np.eye(self.action_size if isinstance(action_space, spaces.Discrete) else 0, dtype=np.float32)

    def encode(self, actions: Any) -> NDArray[np.float32]:
        """Encodes actions `[n, ...]` as floats `[n, action_size]`; discrete actions are one-hot."""
        actions = np.asarray(actions)
        if isinstance(self.action_space, spaces.Discrete):
            rows: NDArray[np.float32] = self._one_hot[actions - self.action_space.start]
            return rows
        if isinstance(self.action_space, spaces.MultiDiscrete):
            sizes = self.action_space.nvec.ravel()
            starts = np.cumsum(sizes) - sizes - self.action_space.start.ravel()  # where each one-hot group begins
            one_hot = np.zeros((len(actions), self.action_size), dtype=np.float32)
            one_hot[np.arange(len(actions))[:, None], actions.reshape(len(actions), -1) + starts] = 1
            return one_hot
        numbers: NDArray[np.float32] = actions.reshape(len(actions), -1).astype(np.float32)
        return numbers

    def join(self, observation: Any, actions: NDArray[np.float32], rewards: NDArray[np.float32]) -> dict[str, Any]:
        """Returns the observation with the encoded previous action and the reward added."""
        joined = dict(observation) if self.is_dict else {"observation": observation}
        if self.action:
            joined["previous_action"] = actions
        if self.reward:
            joined["previous_reward"] = rewards
        return joined


class PreviousStep(gym.Wrapper[dict[str, Any], Any, Any, Any], RecordConstructorArgs):
    """Adds the previous action and reward to the observation, which becomes a Dict.

    Keys: `observation` (or the keys of a Dict observation), `previous_action` (discrete ones are one-hot, Box actions
    unchanged) and `previous_reward` `[1]`. Both are zero at the start of an episode.

    Args:
        env: The environment to wrap.
        action: Add the previous action.
        reward: Add the previous reward.

    Raises:
        InputError: the observation already has a key of that name.
    """

    def __init__(self, env: gym.Env[Any, Any], action: bool = True, reward: bool = True):
        RecordConstructorArgs.__init__(self, action=action, reward=reward)
        gym.Wrapper.__init__(self, env)
        self._encoding = PreviousStepEncoding(env.observation_space, env.action_space, action, reward)
        self.observation_space = self._encoding.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Resets the environment, with zeros for the previous step."""
        observation, info = self.env.reset(seed=seed, options=options)
        nothing = np.zeros(self._encoding.action_size, dtype=np.float32)
        return self._encoding.join(observation, nothing, np.zeros(1, dtype=np.float32)), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Steps the environment and adds the action and its reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        taken = self._encoding.encode(np.asarray(action)[None])[0]
        joined = self._encoding.join(observation, taken, np.array([reward], dtype=np.float32))
        return joined, reward, terminated, truncated, info


class PreviousStepVector(VectorWrapper[dict[str, Any], Any, Any, Any, Any]):
    """`PreviousStep` for vector environments, with the same observations in every autoreset mode.

    Args:
        envs: The vector environment to wrap.
        action: Add the previous action.
        reward: Add the previous reward.

    Raises:
        InputError: the observation already has a key of that name.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], action: bool = True, reward: bool = True):
        super().__init__(envs)
        self._mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._encoding = PreviousStepEncoding(envs.single_observation_space, envs.single_action_space, action, reward)
        self.single_observation_space = self._encoding.space
        self.observation_space = batch_space(self._encoding.space, envs.num_envs)
        self._actions = np.zeros((envs.num_envs, self._encoding.action_size), dtype=np.float32)
        self._rewards = np.zeros((envs.num_envs, 1), dtype=np.float32)
        self._ended = np.zeros(envs.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Resets all sub-environments or those of `options["reset_mask"]`, with zeros for the previous step."""
        started = (options or {}).get("reset_mask", slice(None))
        observations, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # VectorEnv: int
        self._actions, self._rewards = self._actions.copy(), self._rewards.copy()  # the caller may hold the old arrays
        self._actions[started], self._rewards[started], self._ended[started] = 0, 0, False
        return self._encoding.join(observations, self._actions, self._rewards), info

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        """Steps the environments and adds the actions and their rewards."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        self._actions = self._encoding.encode(actions)
        self._rewards = np.asarray(rewards, dtype=np.float32)[:, None].copy()
        started = self._ended  # NEXT_STEP: this step was a reset
        ended = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP:
            started = ended
            if ended.any():
                info = {**info, "final_obs": self._final(info["final_obs"], ended)}
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._ended = ended
        if started.any():
            self._actions[started], self._rewards[started] = 0, 0
        return self._encoding.join(observations, self._actions, self._rewards), rewards, terminated, truncated, info

    def get_state(self) -> State | None:
        """See `ntm_rl.envs.state`."""
        inner = self.env.get_state() if isinstance(self.env, Resumable) else None
        own = {"actions": self._actions.copy(), "rewards": self._rewards.copy(), "ended": self._ended.copy()}
        return None if inner is None else {"envs": inner, **own}

    def set_state(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """See `ntm_rl.envs.state`."""
        actions = array_of(state, "actions", self._actions)
        rewards, ended = array_of(state, "rewards", self._rewards), array_of(state, "ended", self._ended)
        if not isinstance(self.env, Resumable):
            raise InputError(f"{self.env}: its state cannot be restored")
        observations = self.env.set_state(part_of(state, "envs"))
        self._actions, self._rewards, self._ended = actions, rewards, ended
        return self._encoding.join(observations, self._actions, self._rewards)

    def _final(self, final: Any, ended: NDArray[np.bool_]) -> NDArray[np.object_]:
        """Returns the final observations with the last step added, an object array of Dicts."""
        joined = np.full(self.num_envs, None, dtype=object)
        for index in np.flatnonzero(ended).tolist():
            joined[index] = self._encoding.join(
                row(final, index), self._actions[index].copy(), self._rewards[index].copy()
            )
        return joined
