"""Base classes of cores with an LSTM controller and an external memory."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_positive
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.devices import can_read_values
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.lstm_step import lstm_step


class LstmController(nn.Module):
    """The parameters of an LSTM layer on an input and the feedback (see `feedback_of`).

    Args:
        input_size: I.
        reads_size: Elements of all read vectors.
        hidden_size: H.
    """

    def __init__(self, input_size: int, reads_size: int, hidden_size: int):
        super().__init__()
        self.weight_input = uniform_parameter(hidden_size, 4 * hidden_size, input_size)
        self.bias = uniform_parameter(hidden_size, 4 * hidden_size)
        self.weight_feedback = uniform_parameter(hidden_size, 4 * hidden_size, reads_size + hidden_size)

    def project(self, inputs: Tensor) -> Tensor:
        """Returns the inputs' share in the gates, `[T, B, 4 H]`, in one product for all steps."""
        return F.linear(inputs, self.weight_input, self.bias)


def uniform_parameter(hidden_size: int, *shape: int) -> nn.Parameter:
    """Returns a parameter that is initialised as those of PyTorch's recurrent layers."""
    bound = 1 / math.sqrt(hidden_size)
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def feedback_of(reads: Tensor, hidden: Tensor) -> Tensor:
    """Returns a controller's feedback `[B, R * M + H]`: read vectors `[B, R, M]`, then the hidden state `[B, H]`."""
    return torch.cat([reads.flatten(1), hidden], dim=1)


def output_of(hidden: Tensor, reads: Tensor) -> Tensor:
    """Returns a core's output `[B, H + R * M]`: the hidden state, then the read vectors."""
    return torch.cat([hidden, reads.flatten(1)], dim=1)


class LstmMemory(MemoryCore):
    """An LSTM controller, one linear layer from its hidden state to the memory's interface, and a memory.

    The output is the hidden state followed by the read vectors, `[H + R * M]`: any linear layer on it is the papers'
    output layer. The initial state is all zeros.
    """

    def _build(
        self, input_size: int, hidden_size: int, layout: StateLayout[Any], interface: Mapping[str, int], clip: float
    ) -> None:
        """Makes the controller and the interface layer.

        Args:
            input_size: I.
            hidden_size: H.
            layout: Of a state whose last three parts are the read vectors, the hidden and the cell state.
            interface: Size of each group of interface parameters.
            clip: Range to which these are clipped.
        """
        require_positive(clip=clip)
        self.clip, self.layout = clip, layout
        self._interface_sizes = list(interface.values())
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)
        reads_size = layout.sizes[-3]
        self.output_size = self.hidden_size + reads_size
        self.controller = LstmController(self.input_size, reads_size, self.hidden_size)
        self.interface_layer = nn.Linear(self.hidden_size, sum(self._interface_sizes))

    def _weight(self) -> Tensor:
        return self.controller.bias

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs, parts = self._run_parts(inputs, self.layout.unpack(state), resets)
        return outputs, self.layout.pack(parts)

    def memory(self, state: Tensor) -> Tensor:
        """See `MemoryCore.memory`."""
        memory: Tensor = self.unpack(state).memory
        return memory

    def _run_outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> Tensor:
        return self._run_parts(inputs, self.layout.unpack(state), resets)[0]

    @abstractmethod
    def _run_parts(self, inputs: Tensor, parts: Any, resets: Tensor | None) -> tuple[Tensor, Any]:
        """Returns the outputs and the state's parts after the last step."""

    def _interface_groups(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Returns the clipped groups of interface parameters from a hidden state `[B, H]`."""
        raw: Tensor = self.interface_layer(hidden)
        return torch.split(raw.clamp(-self.clip, self.clip), self._interface_sizes, dim=1)


class SteppedLstmMemory(LstmMemory):
    """An `LstmMemory` that runs step by step, differentiated by autograd."""

    @abstractmethod
    def _step(self, hidden: Tensor, cell: Tensor, last: Any) -> Any:
        """Returns the state's parts after a step from the controller's new state and the parts before the step."""

    @final
    def _run_parts(self, inputs: Tensor, parts: Any, resets: Tensor | None) -> tuple[Tensor, Any]:
        has_reset, outputs = steps_with_resets(resets, len(inputs)), []
        weight_feedback = self.controller.weight_feedback.t()
        for step, from_input in enumerate(self.controller.project(inputs)):
            if resets is not None and has_reset[step]:
                parts = type(parts)(*(_zero_where(resets[step], part) for part in parts))
            gates = torch.addmm(from_input, feedback_of(parts.reads, parts.hidden), weight_feedback)
            control = lstm_step(gates, parts.cell)
            parts = self._step(control.hidden, control.cell, parts)
            outputs.append(output_of(parts.hidden, parts.reads))
        return torch.stack(outputs), parts


def steps_with_resets(resets: Tensor | None, steps: int) -> list[bool]:
    """Returns for each step whether `resets` `[T, B]` must be applied: where they cannot be read, at every step."""
    if resets is None or not can_read_values(resets.device):
        return [resets is not None] * steps
    has_reset: list[bool] = resets.any(1).tolist()
    return has_reset


def _zero_where(resets: Tensor, part: Tensor) -> Tensor:
    return part.masked_fill(resets.view(-1, *[1] * (part.dim() - 1)), 0)
