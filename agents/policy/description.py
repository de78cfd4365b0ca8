"""Says what an agent reads and does, and what looks wrong about it."""

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

FAR = 10.0  # half the range of an action that a Gaussian with a deviation of 1 hardly explores
NEAR = 0.1  # half the range of an action that it hardly ever stays within
LARGE = 100.0  # numbers that a perceptron should not read as they are


class SuspiciousSpaces(UserWarning):
    """What an agent reads or does that is probably not what its user means."""


def warn_of_spaces(policy: MlpNtmPolicy, env: VecEnv | None = None) -> None:
    """Warns of what looks wrong about the spaces of a policy; silent in ordinary cases."""
    for line in suspicions(policy, env):
        warnings.warn(line, SuspiciousSpaces, stacklevel=5)  # where MemoryPPO is made


def suspicions(policy: MlpNtmPolicy, env: VecEnv | None = None) -> Iterator[str]:
    """Returns what looks wrong about what a policy reads and does, a sentence each with the way out."""
    normalized = _normalized(env)
    for key, space in _numbers(policy).items():
        name = f"observation {key!r}" if key else "the observation"
        if is_image(space) or ImageReader.fits(space) or looks_like_image(space):
            yield (
                f"{name} looks like an image {list(space.shape)}, and is read as {spaces.flatdim(space):,} numbers; "
                + (
                    "use CnnNtmPolicy, and ntm_rl.envs.make_vec_env, which puts channels first"
                    if ImageReader.fits(space)
                    else "CNNs read uint8 with bounds 0 and 255, and floats with bounds 0 and 1, of shape (H, W, C); "
                    "VecNormalize must leave them out (norm_obs_keys)"
                )
            )
        elif key not in normalized and (largest := _largest(space)) >= LARGE:
            yield (
                f"{name} has values up to {largest:g}, which a perceptron reads as they are; scale them, or use "
                "env.normalize_observation=true (VecNormalize)"
            )
    for key, image in _float_images(policy).items():
        if (largest := _largest(image)) >= LARGE:
            yield (
                f"{f'observation {key!r}' if key else 'the observation'} is an image of {image.dtype} with "
                f"values up to {largest:g}, which the CNN reads as they are; give it as uint8, which is scaled by "
                "1/255, or scale it to 0..1"
            )
    yield from _suspicious_actions(policy)


def describe(policy: MlpNtmPolicy, env: VecEnv, settings: EnvSettings) -> list[str]:
    """Returns the block that a training begins with: observations, actions, policy and environments, then warnings."""
    normalized, changes = _normalized(env), _changes(env, settings)
    lines = ["The agent reads"]
    for key, space in _parts(policy.observation_space).items():
        lines.append(f"  {key or 'observation'}: {_how_read(policy, key, space, key in normalized)}")
    lines += [f"    {change}" for change in changes]
    lines += ["and does", f"  {_actions(policy, settings)}"]
    core = f"core {policy.core_name}, {policy.critic_kind} critic"
    lines.append(f"with {type(policy).__name__}, {core}, in {env.num_envs} environments {_stepping(env)}.")
    lines += [f"warning: {line}" for line in suspicions(policy, env)]
    if settings.normalize_observation and not normalized:
        lines.append("warning: env.normalize_observation = true normalises nothing here: no observation is a vector")
    if any(change.endswith("left out, though it changes") for change in changes):
        lines.append("warning: the agent does not see the mission, which changes; env.mission=auto shows it")
    return lines


def _suspicious_actions(policy: MlpNtmPolicy) -> Iterator[str]:
    space = policy.action_space
    if not isinstance(space, spaces.Box) or policy.squash_output:  # squashed actions are scaled to the bounds
        return
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    half, middle = (high - low)[bounded] / 2, (high + low)[bounded] / 2
    if ((half > FAR) | (half < NEAR) | (abs(middle) > half)).any():
        yield (
            f"the actions' bounds {_bounds(space)} are far from [-1, 1], and the policy's Gaussian begins at 0 with a "
            "deviation of 1: most of them are never tried, or always clipped; use env.rescale_action=true "
            "(gymnasium.wrappers.RescaleAction)"
        )


def _kind(space: spaces.Space[Any]) -> str:
    match space:
        case spaces.Discrete():
            return f"number from 0 to {space.n - 1}"
        case spaces.MultiDiscrete():
            return f"{len(space.nvec)} numbers from 0"
        case spaces.MultiBinary():
            return f"{space.n} bits"
    shape = space.shape or ()
    name = {0: "number", 1: "vector", 2: "matrix"}.get(len(shape), "block")
    return f"{name} {list(shape)} {space.dtype}"


def _how_read(policy: MlpNtmPolicy, key: str, space: spaces.Space[Any], is_normalized: bool) -> str:
    extractor = _images(policy).get(key)
    if extractor is not None:
        network = {"nature": "the Nature CNN", "impala": "IMPALA's ResNet"}[extractor.architecture]
        scaled = "scaled by 1/255" if space.dtype == np.uint8 else "from 0 to 1"
        return f"image {list(space.shape or ())} {space.dtype}, {scaled}, read by {network}"
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return f"{_kind(space)}, one-hot"
    ways = [_kind(space), "normalised by running statistics" if is_normalized else "as it is"]
    if len(space.shape or ()) > 1:
        ways.append(f"flattened to {spaces.flatdim(space):,} numbers")
    return ", ".join(ways)


def _actions(policy: MlpNtmPolicy, settings: EnvSettings) -> str:
    space = policy.action_space
    if not isinstance(space, spaces.Box):
        return f"{space}: sampled"
    if policy.squash_output:
        how = "squashed by tanh and scaled to these bounds"
    else:
        how = "sampled around 0 with a deviation of 1 at the start, clipped to these bounds"
    scaled = ", then scaled to the environment's (env.rescale_action)" if settings.rescale_action else ""
    return f"Box {list(space.shape)} {space.dtype} in {_bounds(space)}: {how}{scaled}"


def _stepping(env: VecEnv) -> str:
    inner = env.unwrapped
    if isinstance(inner, VectorEnvAdapter):
        return "that are stepped all at once (native)"
    return "that are stepped one by one" if isinstance(inner, SpawnedSeedDummyVecEnv) else "that run in a process each"


def _changes(env: VecEnv, settings: EnvSettings) -> list[str]:
    """Returns what the environments' wrappers make of observations."""
    inner = env.unwrapped
    if isinstance(inner, SpawnedSeedDummyVecEnv):
        return changes_of(inner.envs[0])
    if isinstance(inner, VectorEnvAdapter) and settings.id not in MINIGRID_MEMORY:
        return []  # native ones show what their single environments show, which no wrapper changes
    single = make_env(settings)
    single.close()
    return changes_of(single)


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def _images(policy: MlpNtmPolicy) -> dict[str, ImageExtractor]:
    """Returns what reads each image, by the key of the observation."""
    extractor = policy.pi_features_extractor
    if isinstance(extractor, MultiInputExtractor):
        return extractor.images
    return {"": extractor} if isinstance(extractor, ImageExtractor) else {}


def _float_images(policy: MlpNtmPolicy) -> dict[str, spaces.Box]:
    """Returns the images that a CNN of ours reads without scaling them, by their keys."""
    images = _images(policy)
    return {
        key: part
        for key, part in _parts(policy.observation_space).items()
        if key in images and isinstance(part, spaces.Box) and part.dtype != np.uint8
    }


def _numbers(policy: MlpNtmPolicy) -> dict[str, spaces.Box]:
    """Returns the observations that are flattened, by their keys; none where the user's own extractor reads them."""
    extractor, parts = policy.pi_features_extractor, _parts(policy.observation_space)
    if not isinstance(extractor, (FlattenExtractor, MultiInputExtractor)):
        return {}
    images = _images(policy)
    return {key: part for key, part in parts.items() if isinstance(part, spaces.Box) and key not in images}


def _normalized(env: VecEnv | None) -> list[str]:
    """Returns the keys of the observations that running statistics normalise."""
    normalizer = None if env is None else unwrap_vec_normalize(env)
    if normalizer is None or not normalizer.norm_obs:
        return []
    return list(normalizer.obs_rms) if isinstance(normalizer.obs_rms, dict) else [""]


def _largest(space: spaces.Box) -> float:
    bounds = np.abs(np.concatenate([space.low.ravel(), space.high.ravel()]).astype(np.float64))
    bounds = bounds[np.isfinite(bounds) & (bounds < 1e30)]  # floats' largest number stands for no bound
    return float(bounds.max()) if bounds.size else 0.0


def _bounds(space: spaces.Box) -> str:
    low, high = space.low.ravel().tolist(), space.high.ravel().tolist()
    if len(set(low)) == len(set(high)) == 1:
        return f"[{low[0]:g}, {high[0]:g}]"
    return f"[{np.array2string(space.low.ravel(), threshold=4)}, {np.array2string(space.high.ravel(), threshold=4)}]"
