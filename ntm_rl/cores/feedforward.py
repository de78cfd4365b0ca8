"""Feedforward cores without memory or with the last few inputs: baselines for cores with memory."""

from itertools import pairwise
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.episodes import Recent, episode_numbers
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.registry import register_core


class FrameStackState(NamedTuple):
    """Parts of the state: the last inputs before the current one, `[B, frames - 1, I]`, the oldest first."""

    inputs: Tensor


class _StackedMlp(MemoryCore):
    """A multilayer perceptron with tanh on the last `frames` inputs of the episode."""

    precision: Tensor

    def _build(self, input_size: int, hidden_size: int, layers: int, frames: int) -> None:
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, frames=frames)
        require_at_least(0, layers=layers)
        self.input_size, self.frames = int(input_size), int(frames)
        if not layers:  # in place of a parameter
            self.register_buffer("precision", torch.zeros(()))
        self.layout = StateLayout(FrameStackState, inputs=(self.frames - 1, self.input_size))
        sizes = [self.frames * self.input_size, *int(layers) * [int(hidden_size)]]
        self.output_size = sizes[-1]
        blocks = [[nn.Linear(*pair), nn.Tanh()] for pair in pairwise(sizes)]
        self.network = nn.Sequential(*(module for block in blocks for module in block))

    def _weight(self) -> Tensor:
        return super()._weight() if len(self.network) else self.precision

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        recent = Recent.join(self.layout.unpack(state).inputs, inputs, episode_numbers(inputs, resets))
        outputs = self.network(torch.cat(list(recent.lags(self.frames)), dim=2))
        return outputs, self.layout.pack([recent.last(self.frames - 1)])


@register_core("feedforward")
class Feedforward(_StackedMlp):
    """A multilayer perceptron without memory."""

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Layers, each followed by tanh; 0: the outputs are the inputs."] = 1,
    ):
        super().__init__()
        self._build(input_size, hidden_size, layers, frames=1)


@register_core("frame_stack")
class FrameStack(_StackedMlp):
    """A multilayer perceptron on the last inputs of the episode, zero-padded (Mnih et al. 2015, "Methods")."""

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Layers, each followed by tanh; 0: the outputs are the inputs."] = 1,
        frames: Annotated[int, "Stacked inputs, including the current one."] = 4,
    ):
        super().__init__()
        self._build(input_size, hidden_size, layers, frames)
