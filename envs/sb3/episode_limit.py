"""The limit of an episode's steps, as far as a vector environment tells it."""

from numbers import Integral

from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.envs.sb3.attributes import attributes

ATTRIBUTES = (
    "_max_episode_steps",  # gymnasium.wrappers.TimeLimit
    "max_episode_steps",  # this package, and Gymnasium's own vector environments
    "max_steps",  # MiniGrid
    "max_episode_length",  # POPGym
    "episode_length",  # POPGym's Concentration
)


def episode_limit(env: VecEnv) -> int | None:
    """Returns the smallest limit that the first sub-environment has as an attribute, None if it has none."""
    limits = [_positive(env, name) for name in ATTRIBUTES]
    return min((limit for limit in limits if limit is not None), default=None)


def _positive(env: VecEnv, name: str) -> int | None:
    for value in attributes(env, name)[:1]:
        if isinstance(value, Integral) and not isinstance(value, bool):
            return int(value) if int(value) > 0 else None
    return None
