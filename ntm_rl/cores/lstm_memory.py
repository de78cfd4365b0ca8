"""What cores share that put an LSTM controller before a memory of their own."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_positive
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.devices import host_sees, without_autocast


class LstmController(nn.Module):
    """One LSTM layer on an input and the last read vectors.

    Args:
        input_size: I.
        reads_size: Elements of all read vectors.
        hidden_size: H.
    """

    def __init__(self, input_size: int, reads_size: int, hidden_size: int):
        super().__init__()
        bound = 1 / math.sqrt(hidden_size)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        # Gates in the order i, f, o, g, so that one sigmoid serves three.
        self.weight_input = uniform(4 * hidden_size, input_size)
        self.weight_feedback = uniform(4 * hidden_size, hidden_size + reads_size)
        self.bias = uniform(4 * hidden_size)

    def project(self, inputs: Tensor) -> Tensor:
        """Returns the inputs' share in the gates, `[T, B, 4 H]`, in one product for all steps."""
        return F.linear(inputs, self.weight_input, self.bias)

    def forward(self, from_input: Tensor, feedback: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Runs one step.

        Args:
            from_input: `[B, 4 H]`, of `project`.
            feedback: the last hidden state beside the last read vectors, `[B, H + R * M]`.
            cell: the last cell state, `[B, H]`.

        Returns:
            Hidden and cell state, `[B, H]`.
        """
        size = cell.shape[1]
        gates = torch.addmm(from_input, feedback, self.weight_feedback.t())
        opened, candidate = gates.split([3 * size, size], dim=1)
        input_gate, forget_gate, output_gate = torch.sigmoid(opened).chunk(3, dim=1)
        cell = torch.addcmul(forget_gate * cell, input_gate, torch.tanh(candidate))
        return output_gate * torch.tanh(cell), cell


class LstmMemory(MemoryCore):
    """An LSTM controller, one linear layer from its hidden state to the memory's interface, and a memory.

    The output is the hidden state beside the read vectors, `[H + R * M]`: any linear layer on it is the papers' output
    layer. An episode begins with everything at zero. Everything runs in the parameters' precision, also under autocast.
    """

    parts: Any  # the NamedTuple class of the state's parts

    def _build(
        self,
        input_size: int,
        hidden_size: int,
        reads: tuple[int, int],
        interface: Mapping[str, int],
        shapes: Mapping[str, tuple[int, ...]],
        clip: float,
    ) -> None:
        """Makes the controller, the interface of the named sizes, and a state of parts of the named shapes.

        `reads` is heads and width of the read vectors; read vectors, hidden and cell state are the last three parts.
        """
        require_positive(clip=clip)
        self.clip = clip
        shapes = {**shapes, "reads": reads, "hidden": (hidden_size,), "cell": (hidden_size,)}
        self._shapes = tuple(tuple(map(int, shape)) for shape in shapes.values())
        self._sizes = tuple(math.prod(shape) for shape in self._shapes)
        self._interface_sizes = list(interface.values())
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)
        self.state_size = 1 + sum(self._sizes)
        self.output_size = self.hidden_size + math.prod(reads)
        self.controller = LstmController(self.input_size, math.prod(reads), self.hidden_size)
        self.interface_layer = nn.Linear(self.hidden_size, sum(self._interface_sizes))

    def forward(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `MemoryCore.forward`."""
        outputs, parts = self._run_checked(inputs, state, resets)
        return outputs, self._join(parts)

    def outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> Tensor:
        """See `MemoryCore.outputs`."""
        return self._run_checked(inputs, state, resets)[0]

    def unpack(self, state: Tensor) -> NamedTuple:
        """Returns the parts of a flat state `[B, S]`."""
        parts: NamedTuple = self._split(state)
        return parts

    def memory(self, state: Tensor) -> Tensor:
        """See `MemoryCore.memory`."""
        memory: Tensor = self._split(state).memory
        return memory

    def _run_checked(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Any]:
        inputs, state = self.prepare(inputs, state, resets, self.controller.bias)
        with without_autocast(inputs.device):
            return self._run(inputs, self._split(state), resets)

    @abstractmethod
    def _run(self, inputs: Tensor, parts: Any, resets: Tensor | None) -> tuple[Tensor, Any]:
        """Returns outputs and the state's parts after the last step; all is checked and in one precision."""

    def _interface(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Returns what a hidden state `[B, H]` says to the memory, in the interface's order, clipped."""
        said: Tensor = self.interface_layer(hidden)
        return torch.split(said.clamp(-self.clip, self.clip), self._interface_sizes, dim=1)

    def _split(self, state: Tensor) -> Any:
        """Returns the parts of a flat state `[B, S]`."""
        parts = state[:, 1:].split(self._sizes, dim=1)
        return self.parts(*(part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)))

    def _join(self, parts: Any) -> Tensor:
        alive = parts.hidden.new_ones(len(parts.hidden), 1)
        return torch.cat([alive, *(part.flatten(1) for part in parts)], dim=1)


class SteppedLstmMemory(LstmMemory):
    """An `LstmMemory` that runs step by step, with autograd's own tape."""

    @abstractmethod
    def _step(self, hidden: Tensor, cell: Tensor, last: Any) -> Any:
        """Returns the state's parts after a step, from the controller's new state and the parts before the step."""

    @final
    def _run(self, inputs: Tensor, parts: Any, resets: Tensor | None) -> tuple[Tensor, Any]:
        begins, outputs = steps_to_reset(resets, len(inputs)), []
        output = torch.cat([parts.hidden, parts.reads.flatten(1)], dim=1)
        for step, from_input in enumerate(self.controller.project(inputs)):
            if resets is not None and begins[step]:
                output, *parts = (_zeroed(part, resets[step]) for part in (output, *parts))
                parts = self.parts(*parts)
            hidden, cell = self.controller(from_input, output, parts.cell)
            parts = self._step(hidden, cell, parts)
            output = torch.cat([parts.hidden, parts.reads.flatten(1)], dim=1)
            outputs.append(output)
        return torch.stack(outputs), parts


def steps_to_reset(resets: Tensor | None, steps: int) -> list[bool]:
    """Says of each step whether `resets` `[T, B]` must be applied: where the host does not see them, at every step."""
    if resets is None or not host_sees(resets.device):
        return [resets is not None] * steps
    begins: list[bool] = resets.any(1).tolist()
    return begins


def _zeroed(part: Tensor, where: Tensor) -> Tensor:
    return part.masked_fill(where.view(-1, *[1] * (part.dim() - 1)), 0)
