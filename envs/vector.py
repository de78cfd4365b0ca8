"""Vector environments as SB3 wants them: the adapter from Gymnasium's, and the factory that chooses."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from ntm_rl.envs.card_games import CARD_GAMES
from ntm_rl.envs.factory import EnvSettings, make_env
from ntm_rl.errors import InputError


class VectorEnvAdapter(VecEnv):
    """Plays a Gymnasium `VectorEnv` as an SB3 `VecEnv`, episode statistics included.

    SB3 wants the first observation of the next episode with the step that ends one, the last observation in
    `info["terminal_observation"]`, and `info["TimeLimit.truncated"]` true only if the episode did not also terminate.
    `info["episode"]` holds return, length and time of finished episodes, as SB3's `VecMonitor` gives them.

    Args:
        envs: A vector environment that resets within a step (`AutoresetMode.SAME_STEP`) or on demand (`DISABLED`).

    Raises:
        InputError: the environment resets in the step after (`NEXT_STEP`): that step cannot be hidden.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]):
        mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if mode is AutoresetMode.NEXT_STEP:
            raise InputError(
                f"autoreset_mode = {mode.name} of {envs}: its reset steps would be trained on; construct it with "
                "AutoresetMode.SAME_STEP or DISABLED, or step single environments (vectorization = sync)"
            )
        self.envs = envs
        self._resets_itself = mode is AutoresetMode.SAME_STEP
        self._actions: NDArray[Any] | None = None
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        self._began = time.time()
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> VecEnvObs:
        """Starts an episode in every copy."""
        seed = next((seed for seed in self._seeds if seed is not None), None)
        options = next((options for options in self._options if options), None)
        observations, _ = self.envs.reset(seed=seed, options=options)
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0
        self._lengths[:] = 0
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every copy."""
        observations, rewards, terminated, truncated, info = self.envs.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if not dones.any():
            return observations, rewards.astype(np.float32), dones, infos
        finished = np.flatnonzero(dones)
        last = info["final_obs"] if self._resets_itself else observations
        for index in finished.tolist():
            infos[index] = {
                "terminal_observation": _row(last, index),
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                "episode": {
                    "r": float(self._returns[index]),
                    "l": int(self._lengths[index]),
                    "t": time.time() - self._began,
                },
            }
        if not self._resets_itself:
            observations, _ = self.envs.reset(options={"reset_mask": dones})
        self._returns[finished] = 0
        self._lengths[finished] = 0
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Closes the vector environment."""
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Returns what each copy shows."""
        images: Any = self.envs.render()
        return [None] * self.num_envs if images is None else list(images)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute, which all copies share."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of all copies."""
        self._for_all(f"set_attr({attr_name!r})", indices)
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Calls a method of the vector environment once, for all copies."""
        self._for_all(f"env_method({method_name!r})", indices)
        return [getattr(self.envs, method_name)(*method_args, **kwargs)] * self.num_envs

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Returns whether each copy is wrapped: it is monitored, and nothing else."""
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]

    def _for_all(self, what: str, indices: VecEnvIndices) -> None:
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise InputError(f"indices = {indices}: {what} reaches all copies of a native vector environment or none")


def make_vec_env(settings: EnvSettings, n_envs: int, seed: int, training: bool = True) -> VecEnv:
    """Makes `n_envs` copies of an environment, with episode statistics in the infos of finished episodes.

    Args:
        settings: What to make.
        n_envs: Copies.
        seed: Of the first copy; the others follow.
        training: Update the normalisation statistics and normalise rewards; otherwise they stay as they are.

    Raises:
        InputError: as `make_env`, or a vectorization that this environment does not have.
    """
    if n_envs < 1:
        raise InputError(f"n_envs = {n_envs}: must be at least 1")
    venv: VecEnv
    if _is_native(settings):
        venv = VectorEnvAdapter(CARD_GAMES[settings.id](n_envs))
    else:
        makers = [partial(_monitored, settings)] * n_envs
        if settings.vectorization == "subprocess":
            makers[0]().close()  # an error in a worker would reach the user as a broken pipe
            venv = SubprocVecEnv(makers)  # type: ignore[arg-type]
        else:
            venv = DummyVecEnv(makers)  # type: ignore[arg-type]
    venv.seed(seed)
    if settings.normalize_observation or settings.normalize_reward:
        normalized = VecNormalize(
            venv, norm_obs=settings.normalize_observation, norm_reward=settings.normalize_reward, training=training
        )
        normalized.norm_reward = settings.normalize_reward and training
        return normalized
    return venv


def _is_native(settings: EnvSettings) -> bool:
    """Whether the environment is played by a native vector environment, which knows none of the wrappers."""
    if settings.vectorization not in ("auto", "native"):
        return False
    changed = [
        key
        for key in ("kwargs", "mask_velocity", "previous_action", "previous_reward", "max_episode_steps")
        if getattr(settings, key)
    ]
    if settings.id in CARD_GAMES and not changed:
        return True
    if settings.vectorization == "native":
        why = f"it does not know env.{changed[0]}" if changed else f"there is one for {', '.join(CARD_GAMES)}"
        raise InputError(f"env.vectorization = 'native': {settings.id} has no native vector environment here: {why}")
    return False


def _monitored(settings: EnvSettings) -> Monitor:
    return Monitor(make_env(settings))


def _row(observations: Any, index: int) -> Any:
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index].copy() if isinstance(observations, np.ndarray) else observations[index]
