"""Checkpoints of a training: weights, optimizer, counters, statistics and random generators in one checked file."""

import random
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from ntm_rl.agents.normalization import normalizer_state, restore_normalizer
from ntm_rl.agents.storage import StorageError, read_tensors, require_matching, write_tensors
from ntm_rl.errors import InputError

FORMAT = 1


def save_checkpoint(
    model: OnPolicyAlgorithm, folder: Path, *, keep: int = 3, extra: Mapping[str, Any] | None = None
) -> Path:
    """Writes `step-<environment steps>.safetensors` and then deletes all but the `keep` newest.

    Args:
        model: An on-policy algorithm between two rollouts.
        folder: Where checkpoints lie; made if missing.
        keep: Checkpoints to keep, at least 1.
        extra: JSON values to keep with it.

    Returns:
        The file written.

    Raises:
        StorageError: it could not be written; older checkpoints are untouched.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror}") from error
    optimizer = model.policy.optimizer.state_dict()
    tensors = {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for index, state in optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors["random.torch"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        tensors |= {f"normalizer.{name}": tensor for name, tensor in normalizer_state(normalizer).items()}
    document = {
        "format": FORMAT,
        "kind": "checkpoint",
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "episode_num": model._episode_num,
        "episodes": [{key: float(episode[key]) for key in "rlt"} for episode in model.ep_info_buffer or ()],
        "param_groups": [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer["param_groups"]
        ],
        "random": _random_state(),
        "extra": dict(extra or {}),
    }
    path = folder / f"step-{model.num_timesteps:012d}.safetensors"
    write_tensors(path, tensors, document)
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        old.unlink()
    return path


def latest_checkpoint(folder: Path) -> Path:
    """Returns the newest checkpoint that passes its checks; damaged ones are named in a warning.

    Raises:
        InputError: there is none.
    """
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            read_tensors(path)
        except StorageError as error:
            warnings.warn(f"skipped a checkpoint: {error}", stacklevel=2)
        else:
            return path
    raise InputError(f"{folder}: no usable checkpoint; a training writes one every checkpoint.every steps")


def load_checkpoint(path: Path, model: OnPolicyAlgorithm) -> dict[str, Any]:
    """Puts a training back where `save_checkpoint` found it; everything is checked before anything changes.

    The environments begin new episodes: their state is not in the file.

    Returns:
        The `extra` values saved with it.

    Raises:
        StorageError: missing, damaged, or of another kind of agent.
    """
    tensors, document = read_tensors(path)
    if document.get("kind") != "checkpoint" or document.get("format") != FORMAT:
        raise StorageError(f"{path}: not a checkpoint of format {FORMAT}")
    groups = _by_prefix(tensors)
    require_matching(path, groups["policy"], model.policy.state_dict())
    optimizer = _optimizer_state(path, groups["optimizer"], document, model)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        require_matching(path, groups["normalizer"], normalizer_state(normalizer))
    try:
        python_state, numpy_state = _parse_random_state(document["random"])
        episodes = [{key: float(episode[key]) for key in "rlt"} for episode in document["episodes"]]
        counters = {key: int(document[key]) for key in ("num_timesteps", "n_updates", "episode_num")}
        extra = dict(document["extra"])
        torch_state = groups["random"]["torch"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StorageError(f"{path}: not a checkpoint of format {FORMAT}: {error!r}") from error

    model.policy.load_state_dict(groups["policy"])
    model.policy.optimizer.load_state_dict(optimizer)
    if normalizer is not None:
        restore_normalizer(normalizer, groups["normalizer"])
    model.num_timesteps, model._n_updates = counters["num_timesteps"], counters["n_updates"]
    model._episode_num = counters["episode_num"]
    model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    model._last_obs = None  # makes learn() reset the environments, and with them the memory
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    if "cuda" in groups["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(groups["random"]["cuda"])
    return extra


def _by_prefix(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {"policy": {}, "optimizer": {}, "random": {}, "normalizer": {}}
    for name, tensor in tensors.items():
        prefix, _, rest = name.partition(".")
        groups.setdefault(prefix, {})[rest] = tensor
    return groups


def _optimizer_state(
    path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], model: OnPolicyAlgorithm
) -> dict[str, Any]:
    parameters = [parameter for group in model.policy.optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise StorageError(f"{path}: optimizer state {name!r} belongs to no parameter of this agent")
        if tensor.dim() > 0 and tensor.shape != parameters[int(index)].shape:
            raise StorageError(
                f"{path}: optimizer state {name!r} has shape {list(tensor.shape)}; was the config changed?"
            )
        state.setdefault(int(index), {})[key] = tensor
    current = model.policy.optimizer.state_dict()["param_groups"]
    saved = document.get("param_groups")
    if not isinstance(saved, list) or len(saved) != len(current) or not all(isinstance(group, dict) for group in saved):
        raise StorageError(f"{path}: its optimizer has other parameter groups than this agent")
    # JSON knows no tuples, which is what Adam's betas are.
    saved = [{key: tuple(each) if isinstance(each, list) else each for key, each in old.items()} for old in saved]
    groups = [{**group, **old, "params": group["params"]} for group, old in zip(current, saved, strict=True)]
    return {"state": state, "param_groups": groups}


def _random_state() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)
    key = numpy_state["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {"key": key, "pos": int(numpy_state["state"]["pos"])}},
    }


def _parse_random_state(document: Mapping[str, Any]) -> tuple[Any, Any]:
    version, internal, gauss = document["python"]
    python_state = (version, tuple(internal), gauss)
    inner = document["numpy"]["state"]
    numpy_state = {
        **document["numpy"],
        "state": {"key": np.array(inner["key"], dtype=np.uint32), "pos": inner["pos"]},
    }
    # Generators of no importance check the states first, so that nothing has changed if one is bad.
    random.Random().setstate(python_state)
    np.random.RandomState().set_state(numpy_state)
    return python_state, numpy_state
