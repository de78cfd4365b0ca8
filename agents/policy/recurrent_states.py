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
_HINT = "; give back what the last predict returned, and None where episodes begin"


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
    try:
        parts = [torch.as_tensor(part, dtype=torch.float32, device=device) for part in state]
    except (TypeError, ValueError) as error:
        raise InputError(f"state of type {type(state).__name__}: must be two arrays{_HINT}") from error
    if [part.shape for part in parts] != [(1, batch, size)] * 2:
        shapes = " and ".join(str(list(part.shape)) for part in parts)
        raise InputError(
            f"state of shapes {shapes}: must be two of {[1, batch, size]} for {batch} observation(s) and this policy"
            f"{_HINT}"
        )
    return parts[0], parts[1]


def episode_starts(given: Any, batch: int) -> np.ndarray:
    """Returns `[batch]` bool for what `predict` was given: None, one truth value for all, or one for each.

    Raises:
        InputError: another number of them.
    """
    array = np.asarray(False if given is None else given)
    if array.dtype.kind in "USM":  # every text would be true
        raise InputError(f"episode_start = {given!r}: must be a truth value, or one for each of {batch}")
    starts = array.astype(np.bool_).reshape(-1)
    if starts.size not in (1, batch):
        raise InputError(f"episode_start of {starts.size} values: must be one truth value, or one for each of {batch}")
    return np.broadcast_to(starts, batch).copy()


def readable(observation: Any, space: spaces.Space[Any], name: str = "observation") -> Any:
    """Returns one observation, or a batch of them, as arrays that SB3 recognises as those of a space.

    Environments return numbers for a shape of `(1,)`; these get their axis back.

    Raises:
        InputError: what is no observation of the space, or holds numbers that are not finite.
    """
    if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
        raise InputError(
            "You have passed a tuple to the predict() function instead of a Numpy array or a Dict. You are probably "
            "mixing Gym API with SB3 VecEnv API: `obs, info = env.reset()` (Gym) vs `obs = vec_env.reset()` "
            "(SB3 VecEnv)."
        )
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, Mapping) or observation.keys() != space.spaces.keys():
            found = list(observation) if isinstance(observation, Mapping) else type(observation).__name__
            raise InputError(f"{name} = {found}: must be a dict with the keys {list(space.spaces)}")
        return {key: readable(observation[key], part, f"{name}[{key!r}]") for key, part in space.spaces.items()}
    array = observation.cpu().numpy() if isinstance(observation, Tensor) else _numbers(observation, space, name)
    sizes = space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", None)
    if sizes is not None and not ((array >= 0) & (array < sizes)).all():
        raise InputError(f"{name} = {array}: must be in {space}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"{name} = {array}: holds a number that is not finite; the environment, or VecNormalize, gave it"
        )
    return array.reshape(space.shape) if isinstance(space, spaces.Box) and space.shape and array.ndim == 0 else array


def _numbers(observation: Any, space: spaces.Space[Any], name: str) -> np.ndarray:
    try:
        array = np.asarray(observation)
    except ValueError:  # ragged
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        kind = "dict" if isinstance(observation, Mapping) else type(observation).__name__
        raise InputError(f"{name} of type {kind}: must be numbers of {space}, or a batch of them")
    return array


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
