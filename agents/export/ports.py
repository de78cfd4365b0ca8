"""Descriptions of the inputs and outputs of an exported network."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.envs.wrappers.action_masks import MaskFormat

STATE, RESET, NEXT_STATE, MASK = "state", "reset", "next_state", "action_mask"
MAX_SAMPLE = 10.0  # largest size of a float in a sample, as of observations after normalisation


@dataclass(frozen=True)
class Port:
    """An input or output of an exported network.

    Attributes:
        name: Its name in the file.
        shape: Without the batch dimension.
        dtype: NumPy dtype.
        text: What it is, as a phrase.
        space: Space of its elements; None for the state, resets, and outputs but the action.
        fill: NumPy's and torch's function for a valid element.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    text: str
    space: spaces.Space[Any] | None = None
    fill: Literal["zeros", "ones"] = "zeros"

    def row(self) -> dict[str, Any]:
        """Returns the description as JSON values."""
        return {"name": self.name, "shape": ["batch", *self.shape], "dtype": self.dtype, "description": self.text}

    def sample(self, batch: int, rng: np.random.Generator) -> NDArray[Any]:
        """Returns a batch of elements of the space, or zeros without one."""
        if self.space is None:
            return np.zeros((batch, *self.shape), self.dtype)
        self.space.seed(int(rng.integers(2**31)))
        rows = np.stack([np.asarray(self.space.sample()) for _ in range(batch)])
        if rows.dtype.kind == "f":
            rows = rows.clip(-MAX_SAMPLE, MAX_SAMPLE)
        return rows.reshape(batch, *self.shape).astype(self.dtype)


def of_space(name: str, space: spaces.Space[Any], text: str) -> Port:
    """Returns the port for the elements of a Box, Discrete, MultiDiscrete or MultiBinary."""
    return Port(name, tuple(map(int, space.shape or ())), str(space.dtype), text, space)


def of_masks(space: spaces.Space[Any]) -> Port:
    """Returns the port for the masks of an action space.

    Raises:
        InputError: a Box, whose actions cannot be masked.
    """
    size = MaskFormat(space).size
    text = "true for each allowed value of the action, as in sb3_contrib.MaskablePPO"
    return Port(MASK, (size,), "bool", text, spaces.MultiBinary(size), "ones")


def of_state(size: int) -> tuple[Port, Port]:
    """Returns the ports for memory states `[B, size]` and for resets."""
    state = Port(STATE, (size,), "float32", "memory; zeros before the first step, then next_state of the last step")
    reset = Port(RESET, (), "bool", "true at the first step of an episode, which clears the memory")
    return state, reset


def tensor_type(dtype: Any) -> torch.dtype:
    """Returns the torch dtype of a NumPy dtype."""
    return torch.from_numpy(np.empty(0, dtype)).dtype
