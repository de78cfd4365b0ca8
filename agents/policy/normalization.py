"""The running statistics of SB3's `VecNormalize` as tensors, for checkpoints and agent files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import require_matching

SINGLE = "observation"


def observation_state(normalizer: VecNormalize) -> dict[str, Tensor]:
    """Returns the statistics of the observations: `<key>.mean`, `<key>.var`, `<key>.count`."""
    if not normalizer.norm_obs:
        return {}
    return {
        f"{key}.{part}": torch.as_tensor(getattr(statistics, part), dtype=torch.float64)
        for key, statistics in _by_key(normalizer.obs_rms).items()
        for part in ("mean", "var", "count")
    }


def normalizer_state(normalizer: VecNormalize) -> dict[str, Tensor]:
    """Returns all statistics, including those of the discounted return."""
    state = {f"observations.{name}": tensor for name, tensor in observation_state(normalizer).items()}
    for part in ("mean", "var", "count"):
        state[f"return.{part}"] = torch.as_tensor(getattr(normalizer.ret_rms, part), dtype=torch.float64)
    return state


def restore_normalizer(normalizer: VecNormalize, state: Mapping[str, Tensor]) -> None:
    """Restores the statistics returned by `normalizer_state`."""
    for part in ("mean", "var", "count"):
        setattr(normalizer.ret_rms, part, _number(state[f"return.{part}"]))
    if normalizer.norm_obs:
        for key, statistics in _by_key(normalizer.obs_rms).items():
            for part in ("mean", "var", "count"):
                setattr(statistics, part, _number(state[f"observations.{key}.{part}"]))


def normalize(observation: Any, state: Mapping[str, Tensor], epsilon: float, clip: float) -> Any:
    """Normalises an observation, or a dict of them, with the statistics of `observation_state`."""
    if isinstance(observation, Mapping):
        return {
            key: _normalize(value, state, key, epsilon, clip) if f"{key}.mean" in state else value
            for key, value in observation.items()
        }
    return _normalize(observation, state, SINGLE, epsilon, clip)


def require_fitting_statistics(path: Path, state: Mapping[str, Tensor], space: spaces.Space[Any], scale: Any) -> None:
    """Checks that a file's statistics and scale can normalise observations of a space.

    Raises:
        StorageError: statistics that are missing, of another shape or negative, or a scale out of range.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {SINGLE: space}
    normalized = sorted({name.rpartition(".")[0] for name in state}) or [SINGLE]
    if not parts.keys() >= set(normalized):
        raise StorageError(f"{path}: it has statistics of {normalized}; the observations are {list(parts)}")
    expected = {
        f"{key}.{part}": torch.zeros(shape, dtype=torch.float64)
        for key in normalized
        for part, shape in (("mean", parts[key].shape or ()), ("var", parts[key].shape or ()), ("count", ()))
    }
    require_matching(path, state, expected)
    if any((state[f"{key}.var"] < 0).any() for key in normalized):
        raise StorageError(f"{path}: its statistics have a negative variance")
    if not isinstance(scale, Mapping) or not all(_is_positive(scale.get(key)) for key in ("epsilon", "clip")):
        raise StorageError(f"{path}: normalization = {scale}: must have an epsilon and a clip above 0")


def _normalize(value: Any, state: Mapping[str, Tensor], key: str, epsilon: float, clip: float) -> Any:
    mean, var = state[f"{key}.mean"].numpy(), state[f"{key}.var"].numpy()
    return np.clip((value - mean) / np.sqrt(var + epsilon), -clip, clip).astype(np.float32)


def _by_key(statistics: RunningMeanStd | dict[str, RunningMeanStd]) -> dict[str, RunningMeanStd]:
    return statistics if isinstance(statistics, dict) else {SINGLE: statistics}


def _number(tensor: Tensor) -> Any:
    return tensor.numpy().copy() if tensor.dim() else tensor.item()


def _is_positive(number: Any) -> bool:
    return isinstance(number, (int, float)) and 0 < number < math.inf
