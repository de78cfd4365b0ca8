"""What sb3-contrib hands to recurrent policies, as ours take it: states, episode starts, batch-major sequences."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.errors import InputError

LstmStates = tuple[Tensor, Tensor]


def as_lstm_states(state: Tensor) -> LstmStates:
    """Returns a flat state `[B, S]` as an LSTM's `(h, c)`, each `[1, B, S]`; the second is all zeros."""
    hidden = state.unsqueeze(0)
    return hidden, torch.zeros_like(hidden)


def lstm_states_of(state: Any, batch: int, size: int, device: torch.device) -> LstmStates:
    """Returns the state that `predict` was given, zeros for None, as `(h, c)`, each `[1, batch, size]`.

    Raises:
        InputError: a state of another shape.
    """
    if state is None:
        return as_lstm_states(torch.zeros(batch, size, device=device))
    hidden, cell = (torch.as_tensor(part, dtype=torch.float32, device=device) for part in state)
    if hidden.shape != (1, batch, size):
        raise InputError(
            f"state of shape {list(hidden.shape)}: must be {[1, batch, size]} for {batch} observation(s) and this "
            "policy; give back what the last predict returned, and None where episodes begin"
        )
    return hidden, cell


def episode_starts(given: Any, batch: int) -> np.ndarray:
    """Returns `[batch]` bool for what `predict` was given: None, one truth value for all, or one for each.

    Raises:
        InputError: another number of them.
    """
    starts = np.asarray(False if given is None else given).astype(np.bool_).reshape(-1)
    if starts.size not in (1, batch):
        raise InputError(f"episode_start of {starts.size} values: must be one truth value, or one for each of {batch}")
    return np.broadcast_to(starts, batch).copy()


def in_shape_of(observation: Any, space: spaces.Space[Any]) -> Any:
    """Returns a single Box observation in its space's shape; environments return numbers for a shape of `(1,)`."""
    if isinstance(observation, Mapping) and isinstance(space, spaces.Dict):
        return {key: in_shape_of(part, space.spaces[key]) for key, part in observation.items()}
    if isinstance(space, spaces.Box) and space.shape and np.ndim(observation) == 0:
        return np.reshape(observation, space.shape)
    return observation


def map_parts(obs: PyTorchObs, function: Callable[[Tensor], Tensor]) -> PyTorchObs:
    """Applies a function to observations, or to each part of a Dict of them."""
    return {key: function(value) for key, value in obs.items()} if isinstance(obs, dict) else function(obs)


def time_major(block: Tensor, batch: int) -> Tensor:
    """`[B * T, ...]` -> `[T * B, ...]`."""
    return block.reshape(batch, -1, *block.shape[1:]).transpose(0, 1).flatten(0, 1)


def batch_major(block: Tensor, batch: int) -> Tensor:
    """`[T * B, ...]` -> `[B * T, ...]`."""
    return block.reshape(-1, batch, *block.shape[1:]).transpose(0, 1).flatten(0, 1)


def require_finite(log_prob: Tensor) -> None:
    """Checks the actions of our discrete distributions, as torch's check their parameters.

    Raises:
        ValueError: a log probability is not finite.
    """
    if not torch.isfinite(log_prob).all():
        raise ValueError(
            f"log probabilities of actions = {log_prob}: must be finite; an observation or a weight is not "
            "(stable_baselines3.common.vec_env.VecCheckNan finds an observation)"
        )


def refuse_stateless(policy: object) -> NoReturn:
    """Raises the error for an algorithm that passes no memory states on."""
    raise InputError(
        f"policy = {type(policy).__name__}: this policy has a memory, and the algorithm did not pass its state on "
        "(stable_baselines3.PPO and A2C cannot). Use ntm_rl.MemoryPPO or sb3_contrib.RecurrentPPO."
    )
