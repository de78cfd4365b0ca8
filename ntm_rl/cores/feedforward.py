"""Cores that remember nothing, or the last few inputs: what a memory has to beat."""

from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.devices import without_autocast
from ntm_rl.cores.episodes import Recent, episode_numbers
from ntm_rl.cores.registry import register_core


class FrameStackState(NamedTuple):
    """Parts of a frame stack's state: the inputs before the present one, `[B, frames - 1, I]`, the oldest first."""

    inputs: Tensor


class FeedforwardState(NamedTuple):
    """Parts of a feedforward network's state: none."""


class _StackedMlp(MemoryCore):
    """A multilayer perceptron with tanh on the last `frames` inputs of the episode."""

    def _build(self, input_size: int, hidden_size: int, layers: int, frames: int) -> None:
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, layers=layers, frames=frames)
        self.input_size, self.output_size, self.frames = int(input_size), int(hidden_size), int(frames)
        self.state_size = 1 + (self.frames - 1) * self.input_size
        sizes = [self.frames * self.input_size, *int(layers) * [self.output_size]]
        blocks = [[nn.Linear(*pair), nn.Tanh()] for pair in pairwise(sizes)]
        self.network = nn.Sequential(*(module for block in blocks for module in block))

    def forward(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `MemoryCore.forward`."""
        inputs, state = self.prepare(inputs, state, resets, next(self.parameters()))
        recent = Recent.join(self._before(state), inputs, episode_numbers(inputs, resets))
        with without_autocast(inputs.device):
            outputs = self.network(torch.cat(list(recent.lags(self.frames)), dim=2))
        last = recent.last(self.frames - 1).flatten(1)
        return outputs, torch.cat([torch.ones_like(state[:, :1]), last], dim=1)

    def _before(self, state: Tensor) -> Tensor:
        inputs: Tensor = state[:, 1:].unflatten(1, (self.frames - 1, self.input_size))
        return inputs


@register_core("feedforward")
class Feedforward(_StackedMlp):
    """A multilayer perceptron: no memory."""

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Layers, each followed by tanh."] = 1,
    ):
        super().__init__()
        self._build(input_size, hidden_size, layers, frames=1)

    def unpack(self, state: Tensor) -> FeedforwardState:
        """Returns no parts: a flat state `[B, 1]` holds none."""
        return FeedforwardState()


@register_core("frame_stack")
class FrameStack(_StackedMlp):
    """A multilayer perceptron on the last inputs of the episode (Mnih et al. 2015, "Methods"); 0 before it began."""

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Layers, each followed by tanh."] = 1,
        frames: Annotated[int, "Inputs that are seen at once, the present one included."] = 4,
    ):
        super().__init__()
        self._build(input_size, hidden_size, layers, frames)

    def unpack(self, state: Tensor) -> FrameStackState:
        """Returns the last inputs of a flat state `[B, S]`."""
        return FrameStackState(self._before(state))
