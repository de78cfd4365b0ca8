"""Sampled actions, which rollouts store, and their conversion to the environment's actions."""

from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ntm_rl.envs.wrappers.actions import float_bounds

Block = TypeVar("Block", np.ndarray, Tensor)


def sampled_block(space: spaces.Space[Any], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns a zero block `[*shape, A]` for sampled actions, `[*shape]` for a Discrete space.

    Actions are stored as sampled: log probabilities belong to the sample, not to its clipped or rounded value.
    """
    if isinstance(space, spaces.Discrete):
        return torch.zeros(shape, dtype=torch.int64, device=device)
    dtype = torch.int64 if isinstance(space, spaces.MultiDiscrete) else torch.float32
    return torch.zeros(*shape, int(np.prod(space.shape or ())), dtype=dtype, device=device)


class ActionConverter:
    """Converts sampled actions to elements of the environment's action space.

    Box actions are unscaled (if the policy squashes them), clipped to the bounds and, if the space holds integers or
    bools, rounded to the nearest. (SB3 passes the clipped floats, which such a space does not contain.) Discrete and
    MultiDiscrete actions are counted from the space's `start`.

    Args:
        space: The environment's action space.
        squashed: Whether Box actions lie in [-1, 1] and are scaled to the bounds of the space.

    Attributes:
        start: Start of a Discrete or MultiDiscrete space; None for 0.
        sizes: Number of values of each of its components.
        bounds: Least and largest values of a Box space.
    """

    bounds: tuple[Any, Any]

    def __init__(self, space: spaces.Space[Any], squashed: bool = False):
        self._space, self._squashed = space, squashed
        start = space.start if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) else 0
        self.start: Any = start if np.any(start) else None
        self.sizes: Any = space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", None)
        self._rounds = isinstance(space, spaces.Box) and space.dtype.kind in "iub"
        if isinstance(space, spaces.Box):
            self.bounds = float_bounds(space) if self._rounds else (space.low, space.high)

    def __call__(self, sampled: np.ndarray) -> np.ndarray:
        """Returns actions `[B, *space.shape]` of the space's dtype for samples `[B, A]` or `[B]`."""
        actions = sampled.reshape(len(sampled), *(self._space.shape or ()))
        if isinstance(self._space, spaces.Box):
            actions = self.fit(actions, *self.bounds)
        elif self.start is not None:
            actions = actions + self.start
        return actions.astype(self._space.dtype, copy=False)

    def fit(self, actions: Block, low: Block, high: Block) -> Block:
        """Returns Box actions that are unscaled, clipped and rounded; arrays or tensors."""
        if self._squashed:
            actions = low + 0.5 * (actions + 1.0) * (high - low)
        actions = actions.clip(low, high)
        return actions.round() if self._rounds else actions
