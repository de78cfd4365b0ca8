"""Makes SB3 `VecEnv`s from environment settings."""

from functools import partial
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from ntm_rl.envs.factory import EnvSettings, has_added_masks, make_env, with_time_limit
from ntm_rl.envs.native import NATIVE, is_atari, is_native, make_native, takes_kwargs
from ntm_rl.envs.registration import MASKED
from ntm_rl.envs.sb3.adapter import KeepLastObservation, VectorEnvAdapter
from ntm_rl.envs.sb3.seeding import SpawnedSeedVecEnv
from ntm_rl.envs.sb3.workers import WorkerVecEnv
from ntm_rl.envs.wrappers.images import is_image
from ntm_rl.errors import InputError


class SpawnedSeedDummyVecEnv(SpawnedSeedVecEnv, DummyVecEnv):
    """SB3's `DummyVecEnv` with spawned seeds, like the other vector environments here."""


def make_vec_env(settings: EnvSettings, n_envs: int, seed: int, training: bool = True, gamma: float = 0.99) -> VecEnv:
    """Makes a vector environment with episode statistics in the infos of ended episodes.

    Args:
        settings: The environment and its wrappers.
        n_envs: Number of sub-environments.
        seed: Seed; sub-environment i is seeded with `spawn_seed(seed, i)`.
        training: Update the normalisation statistics and normalise rewards; false: do neither.
        gamma: Discount factor of the returns that normalise rewards.

    Raises:
        InputError: as `make_env`, or the environment does not support the vectorization.
    """
    if n_envs < 1:
        raise InputError(f"n_envs = {n_envs}: must be at least 1")
    settings = with_time_limit(settings)
    if settings.worker_timeout <= 0:
        raise InputError(f"env.worker_timeout = {settings.worker_timeout}: must be above 0 seconds")
    venv: VecEnv
    native_id = _native_id(settings)
    if native_id is not None:
        previous = settings.previous_action, settings.previous_reward
        kwargs = {**settings.kwargs, **({"action_masks": True} if has_added_masks(settings) else {})}
        envs = make_native(native_id, n_envs, kwargs, *previous, training)
        venv = VectorEnvAdapter(envs)
    else:
        makers = [partial(_monitored, settings, index) for index in range(n_envs)]
        if settings.vectorization == "subprocess":
            venv = WorkerVecEnv(makers, settings.worker_timeout, settings.restart_workers)  # type: ignore[arg-type]
        else:
            venv = SpawnedSeedDummyVecEnv(makers)  # type: ignore[arg-type]
    venv.seed(seed)
    if settings.normalize_observation or settings.normalize_reward:
        keys = normalized_keys(venv.observation_space) if settings.normalize_observation else []
        normalized = VecNormalize(
            venv,
            norm_obs=bool(keys),
            norm_reward=settings.normalize_reward,
            training=training,
            gamma=gamma,
            norm_obs_keys=keys if keys and isinstance(venv.observation_space, spaces.Dict) else None,
        )
        normalized.norm_reward = settings.normalize_reward and training
        return normalized
    return venv


def normalized_keys(space: spaces.Space[Any]) -> list[str]:
    """Returns the keys of the observation that running statistics normalise; the key is "" if it is not a Dict.

    These are the Boxes that are not images: images are scaled by 1/255 and discrete observations are one-hot.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    return [key for key, part in parts.items() if isinstance(part, spaces.Box) and not is_image(part)]


def _native_id(settings: EnvSettings) -> str | None:
    """Returns the id of the native vector environment for the settings; None if there is none."""
    if settings.vectorization not in ("auto", "native"):
        return None
    env_id = settings.id
    unknown = ["mask_velocity", "rescale_action", "max_episode_steps", *(() if takes_kwargs(env_id) else ("kwargs",))]
    changed = [key for key in unknown if getattr(settings, key)]
    changed += ["mission"] if settings.mission == "words" else []  # MiniGrid's Memory has constant missions
    if settings.mask_velocity and MASKED.get(env_id) in NATIVE:
        env_id = MASKED[env_id]
        changed.remove("mask_velocity")
    if is_native(env_id) and not changed:
        return env_id
    if is_atari(env_id):  # single Atari environments have raw frames
        raise InputError(
            f"env.{changed[0]} = {getattr(settings, changed[0])}: not supported for Atari; use env.kwargs.max_frames"
        )
    if settings.vectorization == "native":
        reason = f"env.{changed[0]} is not supported" if is_native(env_id) else f"valid are {', '.join(NATIVE)}"
        raise InputError(f"env.vectorization = 'native': {settings.id} has no native vector environment here: {reason}")
    return None


def _monitored(settings: EnvSettings, index: int) -> Monitor:
    return Monitor(KeepLastObservation(make_env(settings, index=index)))
