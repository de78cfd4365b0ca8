"""Describes an agent's observations, actions and policy, and warns of spaces that look wrong."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.envs.batched.minigrid_memory import MINIGRID_MEMORY
from ntm_rl.envs.factory import EnvSettings, make_env
from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.envs.sb3.making import SpawnedSeedDummyVecEnv
from ntm_rl.envs.wrappers.images import ImageReader, is_image, looks_like_image
from ntm_rl.envs.wrappers.observations import changes_of
from ntm_rl.texts import one_line

# Half ranges of actions that suit the initial Gaussian with standard deviation 1.
SMALLEST_HALF_RANGE, LARGEST_HALF_RANGE = 0.1, 10.0
LARGEST_INPUT = 100.0  # observations above it should be scaled for an MLP


class SuspiciousSpaces(UserWarning):
    """Observation or action spaces that are probably wrong."""


def warn_of_spaces(policy: MlpNtmPolicy, env: VecEnv | None = None) -> None:
    """Warns of the spaces of a policy that look wrong."""
    for line in space_warnings(policy, env):
        warnings.warn(line, SuspiciousSpaces, stacklevel=5)  # the line that makes MemoryPPO


def space_warnings(policy: MlpNtmPolicy, env: VecEnv | None = None) -> Iterator[str]:
    """Yields a sentence for each space of a policy that looks wrong, with the fix."""
    normalized = _normalized(env)
    for key, space in _numbers(policy).items():
        name = f"observation {key!r}" if key else "the observation"
        if is_image(space) or ImageReader.fits(space) or looks_like_image(space):
            yield (
                f"{name} looks like an image {list(space.shape)}, but is read as {spaces.flatdim(space):,} numbers; "
                + (
                    "use CnnNtmPolicy and ntm_rl.envs.make_vec_env, which puts channels first"
                    if ImageReader.fits(space)
                    else "CNNs read uint8 with bounds 0 and 255, and floats with bounds 0 and 1, of shape (H, W, C); "
                    "exclude images from VecNormalize (norm_obs_keys)"
                )
            )
        elif key not in normalized and (largest := _largest(space)) >= LARGEST_INPUT:
            yield (
                f"{name} has values up to {largest:g}, which an MLP reads unscaled; scale them, or use "
                "env.normalize_observation=true (VecNormalize)"
            )
    for key, image in _float_images(policy).items():
        if (largest := _largest(image)) >= LARGEST_INPUT:
            yield (
                f"{f'observation {key!r}' if key else 'the observation'} is an image of {image.dtype} with "
                f"values up to {largest:g}, which the CNN reads unscaled; give it as uint8, which is scaled by "
                "1/255, or scale it to 0..1"
            )
    yield from _suspicious_actions(policy)


def describe(policy: MlpNtmPolicy, env: VecEnv, settings: EnvSettings) -> list[str]:
    """Returns the lines printed at the start of a training: a summary, then the warnings.

    The summary names the observations, what is converted or left out, the actions, the policy and the environments.
    """
    normalized, changes = _normalized(env), _changes(env, settings)
    read = []
    for key, space in _parts(policy.observation_space).items():
        text = _describe_observation(policy, key, space, key in normalized)
        read.append(f"{key}: {text}" if key else text)
    summary = [
        f"{settings.id}: reads {'; '.join(read)}",
        *([f"changed: {'; '.join(changes)}"] if changes else []),
        f"acts in {_actions(policy, settings)}",
        f"{type(policy).__name__}, core {policy.core_name}, {policy.critic_kind} critic",
        f"{env.num_envs * policy.ranks.size} environments{_on_ranks(policy.ranks.size)}, {_stepping(env)}",
    ]
    lines = [" | ".join(summary)]
    lines += [f"warning: {line}" for line in space_warnings(policy, env)]
    if settings.normalize_observation and not normalized:
        lines.append("warning: env.normalize_observation = true has no effect: no observation is a vector")
    if any(change.endswith("left out, though it changes") for change in changes):
        lines.append("warning: the agent does not read the mission, which changes; use env.mission=auto")
    return [one_line(line) for line in lines]  # keys of a Dict may have line breaks


def _suspicious_actions(policy: MlpNtmPolicy) -> Iterator[str]:
    space = policy.action_space
    if not isinstance(space, spaces.Box) or policy.squash_output:  # squashed actions are scaled to the bounds
        return
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    half, middle = (high - low)[bounded] / 2, (high + low)[bounded] / 2
    if ((half > LARGEST_HALF_RANGE) | (half < SMALLEST_HALF_RANGE) | (abs(middle) > half)).any():
        yield (
            f"the action bounds {_bounds(space)} are far from [-1, 1], but the policy's Gaussian starts with mean 0 "
            "and standard deviation 1: most actions are never sampled, or always clipped; use env.rescale_action=true "
            "(gymnasium.wrappers.RescaleAction)"
        )


def _kind(space: spaces.Space[Any]) -> str:
    match space:
        case spaces.Discrete():
            return f"number from 0 to {space.n - 1}"
        case spaces.MultiDiscrete():
            return f"{len(space.nvec)} numbers from 0"
        case spaces.MultiBinary():
            return "1 bit" if space.n == 1 else f"{space.n} bits"
    shape = space.shape or ()
    name = {0: "number", 1: "vector", 2: "matrix"}.get(len(shape), "block")
    return f"{name} {list(shape)} {space.dtype}"


def _describe_observation(policy: MlpNtmPolicy, key: str, space: spaces.Space[Any], is_normalized: bool) -> str:
    extractor = _images(policy).get(key)
    if extractor is not None:
        network = {"nature": "the Nature CNN", "impala": "IMPALA's ResNet"}[extractor.architecture]
        scaled = "scaled by 1/255" if space.dtype == np.uint8 else "from 0 to 1"
        return f"image {list(space.shape or ())} {space.dtype}, {scaled}, read by {network}"
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return f"{_kind(space)}, one-hot"
    properties = [_kind(space), "normalised by running statistics" if is_normalized else "not scaled"]
    if len(space.shape or ()) > 1:
        properties.append(f"flattened to {spaces.flatdim(space):,} numbers")
    return ", ".join(properties)


def _actions(policy: MlpNtmPolicy, settings: EnvSettings) -> str:
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return " ".join(str(space).split()) + (" with action masks" if settings.action_masks is True else "")
    if policy.squash_output:
        treatment = "squashed by tanh and scaled to these bounds"
    else:
        rounded = ", rounded" if space.dtype.kind in "iub" else ""
        treatment = f"Gaussian with initial mean 0 and standard deviation 1, clipped to these bounds{rounded}"
    scaled = ", then scaled to the environment's (env.rescale_action)" if settings.rescale_action else ""
    return f"Box {list(space.shape)} {space.dtype} in {_bounds(space)}: {treatment}{scaled}"


def _stepping(env: VecEnv) -> str:
    inner = env.unwrapped
    if isinstance(inner, VectorEnvAdapter):
        return "stepped as one batch (native)"
    return "stepped in turn" if isinstance(inner, SpawnedSeedDummyVecEnv) else "a process each"


def _changes(env: VecEnv, settings: EnvSettings) -> list[str]:
    """Returns the changes that the environments' wrappers make to observations."""
    inner = env.unwrapped
    if isinstance(inner, SpawnedSeedDummyVecEnv):
        return changes_of(inner.envs[0])
    if isinstance(inner, VectorEnvAdapter) and settings.id not in MINIGRID_MEMORY:
        return []  # no wrapper changes their observations
    single = make_env(settings)
    single.close()
    return changes_of(single)


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def _images(policy: MlpNtmPolicy) -> dict[str, ImageExtractor]:
    """Returns the extractor of each image by the key of the observation."""
    extractor = policy.pi_features_extractor
    if isinstance(extractor, MultiInputExtractor):
        return extractor.images
    return {"": extractor} if isinstance(extractor, ImageExtractor) else {}


def _float_images(policy: MlpNtmPolicy) -> dict[str, spaces.Box]:
    """Returns the images that an `ImageExtractor` reads unscaled, by their keys."""
    images = _images(policy)
    return {
        key: part
        for key, part in _parts(policy.observation_space).items()
        if key in images and isinstance(part, spaces.Box) and part.dtype != np.uint8
    }


def _numbers(policy: MlpNtmPolicy) -> dict[str, spaces.Box]:
    """Returns the Box observations that are flattened, by their keys; none with a user's own extractor."""
    extractor, parts = policy.pi_features_extractor, _parts(policy.observation_space)
    if not isinstance(extractor, (FlattenExtractor, MultiInputExtractor)):
        return {}
    images = _images(policy)
    return {key: part for key, part in parts.items() if isinstance(part, spaces.Box) and key not in images}


def _normalized(env: VecEnv | None) -> list[str]:
    """Returns the keys of the observations that `VecNormalize` normalises."""
    normalizer = None if env is None else unwrap_vec_normalize(env)
    if normalizer is None or not normalizer.norm_obs:
        return []
    return list(normalizer.obs_rms) if isinstance(normalizer.obs_rms, dict) else [""]


def _largest(space: spaces.Box) -> float:
    bounds = np.abs(np.concatenate([space.low.ravel(), space.high.ravel()]).astype(np.float64))
    bounds = bounds[np.isfinite(bounds) & (bounds < 1e30)]  # the largest float means unbounded
    return float(bounds.max()) if bounds.size else 0.0


def _bounds(space: spaces.Box) -> str:
    low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
    if len(set(low)) == len(set(high)) == 1:
        return f"[{low[0]:g}, {high[0]:g}]"
    return f"[{np.array2string(space.low.ravel(), threshold=4)}, {np.array2string(space.high.ravel(), threshold=4)}]"


def _on_ranks(size: int) -> str:
    return "" if size == 1 else f" on {size} processes"
