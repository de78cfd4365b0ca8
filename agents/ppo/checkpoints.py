"""Checkpoints of an on-policy training."""

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from ntm_rl.agents.policy.files import agent_card
from ntm_rl.agents.policy.normalization import normalizer_state, restore_normalizer
from ntm_rl.agents.ppo.vec_env_state import (
    collect_vec_env_states,
    ranks_of,
    reached_level,
    restore_rank_generators,
    restore_vec_env,
)
from ntm_rl.agents.storage.checkpoints import FORMATS, PPO_CHECKPOINT, as_count, read_checkpoint, write_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.random_states import restore_random_states
from ntm_rl.agents.storage.tensors import put_weights, require_matching
from ntm_rl.agents.storage.trees import pack, unpack
from ntm_rl.errors import InputError


def save_checkpoint(
    model: OnPolicyAlgorithm, folder: Path, *, keep: int = 3, extra: Mapping[str, Any] | None = None
) -> Path | None:
    """Writes `step-<environment steps>.safetensors` and then deletes all but the `keep` newest.

    With several ranks, all of them call it, and the first one writes.

    Args:
        model: An on-policy algorithm between two rollouts.
        folder: Folder of the checkpoints; made if missing.
        keep: Number of checkpoints to keep, at least 1.
        extra: JSON values to save with it.

    Returns:
        The file written; None on other ranks than the first.

    Raises:
        InputError: `keep` below 1.
        StorageError: it could not be written; older checkpoints are untouched.
    """
    states = collect_vec_env_states(model)
    return ranks_of(model).agree(lambda: None if states is None else _write(model, folder, states, keep, extra))


def _write(
    model: OnPolicyAlgorithm, folder: Path, states: Mapping[str, Any], keep: int, extra: Mapping[str, Any] | None
) -> Path:
    tensors: dict[str, Tensor] = {}
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None:
        tensors = {f"normalizer.{name}": tensor for name, tensor in normalizer_state(normalizer).items()}
    tensors |= {f"credit.{name}": tensor for name, tensor in _credit_state(model).items()}
    arrays, environment = pack(states)
    tensors |= {f"environment.{name}": tensor for name, tensor in arrays.items()}
    document = {
        "kind": PPO_CHECKPOINT,
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "episode_num": model._episode_num,
        "episodes": [{key: float(episode[key]) for key in "rlt"} for episode in model.ep_info_buffer or ()],
        "successes": [float(success) for success in model.ep_success_buffer or ()],
        "environment": environment,
        "agent": _agent_card(model),
        "extra": dict(extra or {}),
    }
    return write_checkpoint(
        folder, model.num_timesteps, model.policy, model.policy.optimizer, document, tensors, keep=keep
    )


def _agent_card(model: OnPolicyAlgorithm) -> dict[str, Any] | None:
    """Returns the card for loading the agent from its checkpoint; None for a policy that a card cannot describe."""
    env = model.get_env()
    extra = {"timesteps": model.num_timesteps, "level": None if env is None else reached_level(env)}
    with suppress(InputError):  # a custom policy: its checkpoints can still be resumed
        return agent_card(model.policy, model.get_vec_normalize_env(), extra)
    return None


def _credit_state(model: OnPolicyAlgorithm) -> dict[str, Tensor]:
    """Returns the statistics that choose the lambda of the advantages; none if it is fixed."""
    credit = getattr(model, "credit", None)
    return {} if credit is None else credit.state_dict()


def load_checkpoint(path: Path, model: OnPolicyAlgorithm) -> dict[str, Any]:
    """Restores a training from a checkpoint; everything is checked before anything changes.

    Args:
        path: The file.
        model: Made with the same settings.

    Returns:
        The `extra` values that were saved with it.

    Raises:
        StorageError: missing, damaged, or of another kind of agent.
    """
    groups, document, optimizer = read_checkpoint(path, PPO_CHECKPOINT, model.policy, model.policy.optimizer)
    normalizer = model.get_vec_normalize_env()
    require_matching(path, groups["normalizer"], {} if normalizer is None else normalizer_state(normalizer))
    require_matching(path, groups["credit"], _credit_state(model))
    try:
        episodes = [{key: float(episode[key]) for key in "rlt"} for episode in document["episodes"]]
        successes = [float(success) for success in document.get("successes", [])]
        counters = {key: as_count(document[key]) for key in ("num_timesteps", "n_updates", "episode_num")}
        extra = dict(document["extra"])
        state = unpack(groups["environment"], document.get("environment", {}))
        restore_vec_env(model, state, counters["num_timesteps"])
    except InputError as error:
        raise StorageError(f"{path}: {error}; was the config changed?") from error
    except Exception as error:  # hostile values make the parsers raise anything
        raise StorageError(f"{path}: not a checkpoint of format {FORMATS[PPO_CHECKPOINT]}: {error!r}") from error

    put_weights(model.policy, groups["policy"])
    for name, tensor in _credit_state(model).items():
        tensor.copy_(groups["credit"][name])
    model.policy.optimizer.load_state_dict(optimizer)
    if normalizer is not None:
        restore_normalizer(normalizer, groups["normalizer"])
        if model._last_obs is not None:
            model._last_obs = normalizer.normalize_obs(model._last_obs)
    model.num_timesteps, model._n_updates = counters["num_timesteps"], counters["n_updates"]
    model._episode_num = counters["episode_num"]
    model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(successes, maxlen=model._stats_window_size)
    restore_random_states(groups["random"], document["random"], model.device)
    restore_rank_generators(model, state, counters["num_timesteps"])
    return extra
