"""Vector environments as SB3 wants them: the adapter from Gymnasium's, and the factory that chooses."""

from functools import partial
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from ntm_rl.envs.factory import EnvSettings, make_env, with_time_limit
from ntm_rl.envs.native import NATIVE, is_atari, is_native, make_native, takes_kwargs
from ntm_rl.envs.registration import MASKED
from ntm_rl.envs.sb3.adapter import KeepLastObservation, VectorEnvAdapter
from ntm_rl.envs.sb3.seeding import SpawnedSeedVecEnv
from ntm_rl.envs.sb3.workers import WorkerVecEnv
from ntm_rl.envs.wrappers.images import is_image
from ntm_rl.errors import InputError


class SpawnedSeedDummyVecEnv(SpawnedSeedVecEnv, DummyVecEnv):
    """SB3's `DummyVecEnv`, whose copies are seeded as those of all other kinds of vector environment here."""


def make_vec_env(settings: EnvSettings, n_envs: int, seed: int, training: bool = True, gamma: float = 0.99) -> VecEnv:
    """Makes `n_envs` copies of an environment, with episode statistics in the infos of finished episodes.

    Args:
        settings: What to make.
        n_envs: Copies.
        seed: Of the whole; copy i is seeded with `spawn_seed(seed, i)`.
        training: Update the normalisation statistics and normalise rewards; otherwise they stay as they are.
        gamma: Discount of the returns by whose deviation rewards are normalised.

    Raises:
        InputError: as `make_env`, or a vectorization that this environment does not have.
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
        envs = make_native(native_id, n_envs, settings.kwargs, *previous, training)
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
    """Returns which parts of an observation running statistics normalise, `[""]` for one that is no Dict.

    Those are vectors; images are scaled by 1/255 and numbered observations are one-hot.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    return [key for key, part in parts.items() if isinstance(part, spaces.Box) and not is_image(part)]


def _native_id(settings: EnvSettings) -> str | None:
    """Returns the id whose native vector environment plays the settings; None: single environments must."""
    if settings.vectorization not in ("auto", "native"):
        return None
    env_id = settings.id
    unknown = ["mask_velocity", "rescale_action", "max_episode_steps", *(() if takes_kwargs(env_id) else ("kwargs",))]
    changed = [key for key in unknown if getattr(settings, key)]
    changed += ["mission"] if settings.mission == "words" else []  # none of theirs changes
    if settings.mask_velocity and MASKED.get(env_id) in NATIVE:
        env_id = MASKED[env_id]
        changed.remove("mask_velocity")
    if is_native(env_id) and not changed:
        return env_id
    if is_atari(env_id):  # single ones show raw frames: another task
        raise InputError(
            f"env.{changed[0]} = {getattr(settings, changed[0])}: not for Atari; use env.kwargs.max_frames"
        )
    if settings.vectorization == "native":
        why = f"it does not know env.{changed[0]}" if is_native(env_id) else f"there is one for {', '.join(NATIVE)}"
        raise InputError(f"env.vectorization = 'native': {settings.id} has no native vector environment here: {why}")
    return None


def _monitored(settings: EnvSettings, index: int) -> Monitor:
    return Monitor(KeepLastObservation(make_env(settings, index=index)))
