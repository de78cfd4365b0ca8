"""Checks of the arguments of `predict`: observations, memory states, episode starts and action masks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ntm_rl.envs.wrappers.action_masks import MaskFormat
from ntm_rl.errors import InputError

_HINT = "; pass the state that the last predict returned, and None at the start of episodes"


def lstm_states_of(state: Any, batch: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the state given to `predict` as `(h, c)`, each `[1, batch, size]`; zeros for None.

    Raises:
        InputError: a state of another shape or type.
    """
    if state is None:
        hidden = torch.zeros(1, batch, size, device=device)
        return hidden, torch.zeros_like(hidden)
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


def episode_starts_of(given: Any, batch: int) -> np.ndarray:
    """Returns the episode starts given to `predict` as `[batch]` bool: from None, one bool, or one per observation.

    Raises:
        InputError: another number of values, or text.
    """
    array = np.asarray(False if given is None else given)
    if array.dtype.kind in "USM":  # any text would be true
        raise InputError(f"episode_start = {given!r}: must be a bool, or one for each of {batch}")
    starts = array.astype(np.bool_).reshape(-1)
    if starts.size not in (1, batch):
        raise InputError(f"episode_start of {starts.size} values: must be one bool, or one for each of {batch}")
    return np.broadcast_to(starts, batch).copy()


def action_masks_of(given: Any, batch: int, space: spaces.Space[Any], device: torch.device) -> Tensor | None:
    """Returns the masks given to `predict` as `[batch, n]` bool.

    Raises:
        InputError: masks of another number, size or type, or one that allows no action.
    """
    if given is None:
        return None
    mask_format = MaskFormat(space)
    array = given.cpu().numpy() if isinstance(given, Tensor) else given
    if not isinstance(array, (np.ndarray, list, tuple)):
        kind = type(array).__name__
        raise InputError(f"action_masks of type {kind}: must be an array {[batch, mask_format.size]} of bools")
    rows = list(array)
    if all(np.ndim(row) == 0 for row in rows):
        rows = [rows]  # of one observation
    if len(rows) != batch:
        raise InputError(f"action_masks of {len(rows)} observation(s): must be of {batch}")
    return torch.from_numpy(mask_format.check(rows, lambda index: f"action_masks[{index}]")).to(device)


def checked_observation(observation: Any, space: spaces.Space[Any], name: str = "observation") -> Any:
    """Returns one observation, or a batch, as arrays that SB3 recognises as elements of a space.

    Numbers for a space of shape `(1,)` get their axis back.

    Raises:
        InputError: an observation outside the space, or with numbers that are not finite.
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
        return {
            key: checked_observation(observation[key], part, f"{name}[{key!r}]") for key, part in space.spaces.items()
        }
    array = observation.cpu().numpy() if isinstance(observation, Tensor) else _as_array(observation, space, name)
    sizes = space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", None)
    if sizes is not None and not ((array >= 0) & (array < sizes)).all():
        raise InputError(f"{name} = {array}: must be in {space}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"{name} = {array}: contains a number that is not finite; it comes from the environment or VecNormalize"
        )
    return array.reshape(space.shape) if isinstance(space, spaces.Box) and space.shape and array.ndim == 0 else array


def _as_array(observation: Any, space: spaces.Space[Any], name: str) -> np.ndarray:
    try:
        array = np.asarray(observation)
    except ValueError:  # ragged
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        kind = "dict" if isinstance(observation, Mapping) else type(observation).__name__
        raise InputError(f"{name} of type {kind}: must be numbers of {space}, or a batch of them")
    return array
