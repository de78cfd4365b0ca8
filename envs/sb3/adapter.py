"""Gymnasium vector environments as SB3 `VecEnv`s."""

import time
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NoReturn, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from ntm_rl.envs.foreign import FOREIGN, ForeignError, describe, is_in_user_code
from ntm_rl.envs.sb3.action_masks import KEY, METHOD
from ntm_rl.envs.sb3.autoreset import autoreset_mode, without_reset_steps
from ntm_rl.envs.sb3.seeding import SpawnedSeedVecEnv
from ntm_rl.envs.state import Resumable, State, array_of, part_of
from ntm_rl.envs.wrappers.observations import row
from ntm_rl.errors import InputError


class VectorEnvAdapter(SpawnedSeedVecEnv):
    """Adapts a Gymnasium `VectorEnv` to SB3's `VecEnv` and adds episode statistics.

    The step that ends an episode returns the first observation of the next one, with the last observation in
    `info["terminal_observation"]` and `info["TimeLimit.truncated"]` true only if the episode did not also terminate.
    `info["episode"]` holds return, length and time of ended episodes, as with SB3's `VecMonitor`. `seed(s)` spawns a
    seed for each sub-environment (see `SpawnedSeedVecEnv`), whereas `envs.reset(seed=s)` counts up from s.

    Args:
        envs: A vector environment with `AutoresetMode.SAME_STEP` or `DISABLED`, or one that `without_reset_steps` can
            convert.

    Raises:
        InputError: the reset steps of `AutoresetMode.NEXT_STEP` cannot be avoided, or the environment returns the same
            array at every step.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]):
        envs = without_reset_steps(envs)
        if getattr(envs.unwrapped, "copy", True) is False:
            raise InputError(
                f"copy = False of {envs}: the next step would overwrite observations in use; set copy = True"
            )
        if isinstance(envs.unwrapped, SyncVectorEnv):
            envs.unwrapped.envs = [KeepLastObservation(each) for each in envs.unwrapped.envs]
        self.envs = envs
        self._same_step_reset = autoreset_mode(envs) is AutoresetMode.SAME_STEP
        self._actions: NDArray[Any] | None = None
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        self._start_time = time.time()
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begins an episode in every sub-environment."""
        options = self._options[0] or None
        if any((other or None) != options for other in self._options):
            raise InputError(f"options = {self._options}: sub-environments must have the same options")
        try:
            observations, info = self.envs.reset(seed=self._next_seed(), options=options)
        except FOREIGN as error:
            self._reraise("reset", error)
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0
        self._lengths[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        _add_masks(self.reset_infos, info)
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Stores the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every sub-environment."""
        try:
            observations, rewards, terminated, truncated, info = self.envs.step(self._actions)
        except FOREIGN as error:
            self._reraise("step", error)
        self._returns += rewards
        self._lengths += 1
        dones = terminated | truncated
        # New dicts at every step, as callbacks write into infos (2 µs for 64 sub-environments).
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        _add_masks(infos, info)
        if not np.count_nonzero(dones):  # five times as fast as `any`
            return observations, rewards.astype(np.float32), dones, infos
        finished = dones.nonzero()[0]
        last, last_info = observations, info
        if self._same_step_reset:  # `observations` and `info` belong to the next episode
            if "final_obs" not in info:
                raise ForeignError(
                    f"{self.envs}: its autoreset_mode is SAME_STEP, but step ended an episode without "
                    "info['final_obs'], the last observations; add them, or use AutoresetMode.DISABLED"
                )
            last, last_info = info["final_obs"], info.get("final_info", {})
        # Where an episode is a part of a game, the environment's own statistics are those of the whole game.
        has_statistics = _has_statistics(last_info)
        for index in finished.tolist():
            self.reset_infos[index] = {}
            infos[index] = {
                **(_info_row(last_info, index) if last_info else {}),
                "terminal_observation": row(last, index),
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
            }
            if not has_statistics:
                infos[index]["episode"] = {
                    "r": float(self._returns[index]),
                    "l": int(self._lengths[index]),
                    "t": time.time() - self._start_time,
                }
        if not self._same_step_reset:
            observations, info = self.envs.reset(options={"reset_mask": dones})
        _add_masks(self.reset_infos, info)
        self._returns[finished] = 0
        self._lengths[finished] = 0
        return observations, rewards.astype(np.float32), dones, infos

    def get_state(self) -> State | None:
        """See `ntm_rl.envs.state`."""
        inner = self.envs.get_state() if isinstance(self.envs, Resumable) else None
        own = {"returns": self._returns.copy(), "lengths": self._lengths.copy()}
        return None if inner is None else {"envs": inner, **own}

    def set_state(self, state: Mapping[str, Any]) -> VecEnvObs:
        """See `ntm_rl.envs.state`."""
        returns, lengths = array_of(state, "returns", self._returns), array_of(state, "lengths", self._lengths, 0)
        if not isinstance(self.envs, Resumable):
            raise InputError(f"{self.envs}: its state cannot be restored")
        observations = self.envs.set_state(part_of(state, "envs"))
        self._returns, self._lengths = returns, lengths
        return observations  # type: ignore[no-any-return]

    def close(self) -> None:
        """Closes the vector environment; an error only warns."""
        try:
            self.envs.close()
        except FOREIGN as error:
            warnings.warn(f"{self.envs}: close raised an error: {describe(error)}", stacklevel=2)

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Returns the rendered image of every sub-environment."""
        images: Any = self.envs.render()
        return [None] * self.num_envs if images is None else list(images)

    def has_attr(self, attr_name: str) -> bool:
        """Returns whether all sub-environments, or a native vector environment, have an attribute."""
        if hasattr(self.envs.unwrapped, "call"):
            return all(self.envs.unwrapped.call("has_wrapper_attr", attr_name))
        return hasattr(self._owner(attr_name), attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute of each sub-environment, or of a native vector environment.

        Raises:
            AttributeError: a sub-environment lacks it.
        """
        if hasattr(self.envs.unwrapped, "get_attr"):
            # Checked first, as Gymnasium ends all processes if one lacks the attribute.
            if not self.has_attr(attr_name):
                raise AttributeError(f"{self.envs} has no attribute {attr_name!r}")
            values = self.envs.unwrapped.get_attr(attr_name)
            return [values[index] for index in self._get_indices(indices)]
        return [getattr(self._owner(attr_name), attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of all sub-environments."""
        self._require_all(f"set_attr({attr_name!r})", indices)
        if hasattr(self.envs.unwrapped, "set_attr"):
            self.envs.unwrapped.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Calls a method of all sub-environments, or once of a native one, whose `action_masks` returns all masks."""
        self._require_all(f"env_method({method_name!r})", indices)
        if hasattr(self.envs.unwrapped, "call"):
            return list(self.envs.unwrapped.call(method_name, *method_args, **kwargs))
        result = getattr(self._owner(method_name), method_name)(*method_args, **kwargs)
        return list(result) if method_name == METHOD else [result] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Returns whether sub-environments are wrapped with a class: `Monitor` only."""
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]

    def _next_seed(self) -> Any:
        """Returns the seeds as a list if `reset` takes one, else the first seed."""
        if self._seeds[0] is None:
            return None
        inner = self.envs.unwrapped
        has_many = isinstance(inner, (SyncVectorEnv, AsyncVectorEnv)) or getattr(inner, "accepts_seed_list", False)
        return list(self._seeds) if has_many else self._seeds[0]

    def _reraise(self, method: str, error: BaseException) -> NoReturn:
        if isinstance(error, InputError) or not is_in_user_code(error):
            raise error
        raise ForeignError(f"{self.envs}: {method} raised an error: {describe(error)}") from error

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any]:
        """Returns the outermost wrapper that has an attribute, else the environment itself."""
        owner = self.envs
        while isinstance(owner, VectorWrapper) and not hasattr(owner, name):
            owner = owner.env
        return owner

    def _require_all(self, call: str, indices: VecEnvIndices) -> None:
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise InputError(f"indices = {indices}: {call} applies to all sub-environments; use None")


class KeepLastObservation(gym.Wrapper[Any, Any, Any, Any]):
    """Copies the last observation of an episode, which vector environments return after the reset.

    Environments that reuse one observation array would overwrite it in the reset.
    """

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation = deepcopy(observation)
        return observation, reward, terminated, truncated, info


def _has_statistics(info: dict[str, Any]) -> bool:
    """Whether a batched info holds episode statistics; warns if its "episode" is something else."""
    episode = info.get("episode")
    if isinstance(episode, Mapping) and {"r", "l"} <= episode.keys():
        return True
    if episode is not None:
        warnings.warn(
            "info['episode'] of the environment's step is replaced: Stable-Baselines3 stores the return r, length l "
            "and time t of ended episodes there; use another key",
            stacklevel=3,
        )
    return False


def _add_masks(infos: list[dict[str, Any]], info: dict[str, Any]) -> None:
    """Adds the action masks of a batched info to the infos of the sub-environments that have one."""
    if KEY in info:
        has_mask = info.get(f"_{KEY}", np.ones(len(infos), dtype=np.bool_))
        for index in np.flatnonzero(has_mask).tolist():
            infos[index][KEY] = info[KEY][index]


def _info_row(info: dict[str, Any], index: int) -> dict[str, Any]:
    """Returns the info of one sub-environment from a batched info, in which `_key` masks the values of `key`."""
    has_masks = any(key.startswith("_") for key in info)  # nested episode statistics have no masks
    return {
        key: _info_row(value, index) if isinstance(value, dict) else value[index]
        for key, value in info.items()
        if (f"_{key}" in info and info[f"_{key}"][index]) or not has_masks
    }
