"""The longest episode of an environment, from its settings."""

import inspect

from ntm_rl.envs.algorithmic.env import AlgorithmicVectorEnv
from ntm_rl.envs.batched.atari import AtariVectorEnv
from ntm_rl.envs.batched.base import BatchedEnv
from ntm_rl.envs.factory import EnvSettings, make_env, with_time_limit
from ntm_rl.envs.native import is_atari, is_native, make_native


def episode_limit(settings: EnvSettings) -> int | None:
    """Returns the steps of the longest episode; None if nothing says when an episode ends.

    The limit is that of the settings, of this package's vector environment, or of Gymnasium's `TimeLimit`. Making one
    sub-environment takes milliseconds; a game of ALE is not made.

    Raises:
        InputError: as `make_env`.
    """
    settings = with_time_limit(settings)
    if settings.max_episode_steps is not None:
        return settings.max_episode_steps
    if is_atari(settings.id):
        defaults = inspect.signature(AtariVectorEnv).parameters
        frames, skip = (settings.kwargs.get(name, defaults[name].default) for name in ("max_frames", "frame_skip"))
        return int(frames) // int(skip)
    if is_native(settings.id):
        envs = make_native(settings.id, 1, settings.kwargs)
        assert isinstance(envs, (BatchedEnv, AlgorithmicVectorEnv))
        return envs.max_episode_steps
    env = make_env(settings)
    env.close()
    return None if env.spec is None else env.spec.max_episode_steps
