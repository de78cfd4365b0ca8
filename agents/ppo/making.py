"""Chooses sizes, and makes the algorithm and its policy from the settings."""

import math
import warnings
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from ntm_rl.agents.policy.description import SuspiciousSpaces
from ntm_rl.agents.policy.policies import FAST_ADAM, policy_class_for
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.ppo.schedules import scheduled
from ntm_rl.agents.ppo.sizes import SIZES, choose_sizes
from ntm_rl.agents.settings.loading import check_settings
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.settings.sections import PolicySettings
from ntm_rl.envs.wrappers.images import is_image
from ntm_rl.errors import InputError


def has_auto_sizes(settings: PpoTrainingSettings) -> bool:
    """Whether sizes are still to be chosen by `with_sizes`."""
    return "auto" in (settings.n_envs, *(getattr(settings.ppo, key) for key in SIZES))


def with_sizes(settings: PpoTrainingSettings, episode_limit: int | None, ranks: int = 1) -> PpoTrainingSettings:
    """Returns the settings with numbers for all sizes that are "auto"; see `ntm_rl.agents.ppo.sizes`.

    Args:
        settings: Settings of the training.
        episode_limit: Steps of the longest episode, None if unknown.
        ranks: Number of ranks, by which a chosen `n_envs` is divisible.

    Raises:
        ConfigError: no sizes fit the others.
    """
    if not has_auto_sizes(settings):
        return settings
    given = {key: getattr(settings.ppo, key) for key in SIZES}
    chosen = choose_sizes(episode_limit, n_envs=settings.n_envs, **given)
    if settings.n_envs == "auto" and chosen.n_envs % ranks:
        chosen = choose_sizes(episode_limit, n_envs=math.ceil(chosen.n_envs / ranks) * ranks, **given)
    data = settings.model_dump()
    data |= {"n_envs": chosen.n_envs, "ppo": {**data["ppo"], **{key: getattr(chosen, key) for key in SIZES}}}
    checked = check_settings(data, settings.env.id)
    assert isinstance(checked, PpoTrainingSettings)
    return checked


def with_masks(settings: PpoTrainingSettings, has_masks: bool) -> PpoTrainingSettings:
    """Returns the settings with `env.action_masks = True` if masks are used."""
    if not has_masks:
        return settings
    return settings.model_copy(update={"env": settings.env.model_copy(update={"action_masks": True})})


def make_model(settings: PpoTrainingSettings, env: VecEnv) -> MemoryPPO:
    """Makes the algorithm and its policy for an environment.

    Raises:
        InputError: options that do not fit the environment's spaces.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    options = settings.ppo.model_dump()
    if options["use_sde"] and not isinstance(env.action_space, spaces.Box):
        raise InputError(
            f"ppo.use_sde = True: state-dependent exploration is for Box actions; those of {settings.env.id} are "
            f"{env.action_space}"
        )
    for key in ("learning_rate", "clip_range"):
        options[key] = scheduled(options[key], options.pop(f"{key}_schedule"))
    settings.import_core()
    optimizer = {**FAST_ADAM, "eps": options.pop("adam_epsilon")}
    extractor = _extractor_options(settings.policy, env.observation_space)
    policy_kwargs = {
        "features_extractor_kwargs": extractor,
        "core": settings.core_name,
        "core_kwargs": settings.core_kwargs,
        "critic": settings.policy.critic,
        "popart": settings.policy.popart,
        "net_arch": settings.policy.net_arch.model_dump(),
        "activation_fn": getattr(nn, settings.policy.activation),
        "ortho_init": settings.policy.ortho_init,
        "optimizer_kwargs": optimizer,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousSpaces)  # `describe` prints them at the start of a training
        return MemoryPPO(
            policy_class_for(env.observation_space),
            env,
            policy_kwargs=policy_kwargs,
            seed=settings.seed,
            device=settings.device,
            action_masks=settings.env.action_masks,
            **options,
        )


def _extractor_options(settings: PolicySettings, space: spaces.Space[Any]) -> dict[str, Any]:
    """Returns the options of the image extractor, none if no observation is an image."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if any(map(is_image, parts)):
        return {"architecture": settings.extractor, "precision": settings.precision}
    if settings.extractor == "impala" or settings.precision != "auto":
        raise InputError(
            f"policy.extractor = {settings.extractor!r}, policy.precision = {settings.precision!r}: no observation is "
            f"an image in {space}; use auto for both"
        )
    return {}
