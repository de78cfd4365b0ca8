"""The interface of every memory core, and the registry of cores by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from ntm_rl.errors import InputError

PRECISIONS = (torch.float32, torch.float64)  # a state in fewer bits would not count its steps, or keep its contents
NO_TENSOR = {
    "inputs": "pad a PackedSequence (torch.nn.utils.rnn.pad_packed_sequence) and run it as [T, B, I]",
    "state": "begin with core.initial_state(batch)",
}
# A trace keeps the number of steps and the resets of its example.
NO_TORCHSCRIPT = "a core does not run in TorchScript (torch.jit); use torch.export.export or torch.compile"


class MemoryCore(nn.Module, ABC):
    """A recurrent network whose whole memory travels as one flat tensor.

    One tensor to store, reset, save or hand to another library is what makes cores interchangeable: nothing outside
    a core's own file knows what is in its state. Element 0 of the state is the *alive* flag, 1 after any step, so an
    all-zero state (what sb3-contrib's zeroing and `predict(state=None)` produce) means "the initial state", learned
    or not.

    Attributes:
        input_size: I, features a step.
        output_size: O, features a step.
        state_size: S, elements of the flat state of one sequence.
    """

    input_size: int
    output_size: int
    state_size: int

    @abstractmethod
    def forward(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the core over a sequence; T calls of one step give the same as one call of T steps.

        Args:
            inputs: `[T, B, I]`.
            state: `[B, S]`, from `initial_state` or an earlier call.
            resets: `[T, B]` bool. `resets[t, b]` says that step t begins a new episode: the state is set to the
                initial state before the step.

        Returns:
            Outputs `[T, B, O]` and the state `[B, S]` after the last step.
        """

    def outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> Tensor:
        """Returns the outputs of `forward` alone; a core may be quicker when nobody asks for the state after."""
        return self.forward(inputs, state, resets)[0]

    @abstractmethod
    def unpack(self, state: Tensor) -> NamedTuple:
        """Returns the named parts of a flat state `[B, S]`, for inspection."""

    def weightings(self, state: Tensor) -> Mapping[str, Tensor]:
        """Returns each head's weighting of the memory's slots in a flat state `[B, S]`, for inspection and losses.

        Returns:
            Weightings `[B, N]` by the head's name, such as "read 1" or "write 1"; empty for a core without heads.
        """
        return {}

    @final
    def has_weightings(self) -> bool:
        """Whether the core has heads with weightings."""
        return bool(self.weightings(self.initial_state(1)))

    def memory(self, state: Tensor) -> Tensor | None:
        """Returns the memory `[B, N, M]` of a flat state `[B, S]`; None for a core whose memory has no slots."""
        return None

    @final
    def check_shapes(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> None:
        """Raises an `InputError` where the arguments of `forward` do not fit each other or the core."""
        for name, value in (("inputs", inputs), ("state", state)):
            if not isinstance(value, Tensor):
                raise InputError(f"{name} of type {type(value).__name__}: must be a tensor; {NO_TENSOR[name]}")
        if inputs.dim() != 3 or inputs.shape[2] != self.input_size or len(inputs) == 0:
            raise InputError(f"inputs of shape {list(inputs.shape)}: must be [T, B, {self.input_size}] with T above 0")
        steps, batch, _ = inputs.shape
        if state.shape != (batch, self.state_size):
            raise InputError(f"state of shape {list(state.shape)}: must be [{batch}, {self.state_size}]")
        if resets is not None and (resets.shape != (steps, batch) or resets.dtype != torch.bool):
            raise InputError(
                f"resets of shape {list(resets.shape)}, {resets.dtype}: must be [{steps}, {batch}], torch.bool"
            )

    @final
    def prepare(self, inputs: Tensor, state: Tensor, resets: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns inputs and state in the precision of a `weight` of the core, once all is checked.

        Raises:
            InputError: arguments that do not fit each other or the core (`check_shapes`), more than one device, a core
                in half precision, or `torch.jit.trace`.
        """
        if torch._C._get_tracing_state() is not None:
            raise InputError(NO_TORCHSCRIPT)
        self.check_shapes(inputs, state, resets)
        _require_one_device(inputs, state, resets, weight)
        dtype = weight.dtype
        if dtype not in PRECISIONS:
            raise InputError(
                f"core in {dtype}: must be in torch.float32 or torch.float64 (core.float()), in which it also runs "
                "under autocast"
            )
        return inputs.to(dtype), state.to(dtype)

    @final
    def __prepare_scriptable__(self) -> nn.Module:
        raise InputError(NO_TORCHSCRIPT)

    @final
    def initial_state(self, batch: int) -> Tensor:
        """Returns the state `[batch, S]` in which an episode begins.

        It is all zeros: `forward` puts the (possibly learned) initial contents in its place, so their gradient
        survives a rollout buffer in between.
        """
        parameter = next(self.parameters())
        return torch.zeros(batch, self.state_size, dtype=parameter.dtype, device=parameter.device)


def named_heads(kind: str, weightings: Tensor) -> dict[str, Tensor]:
    """Returns the weightings `[B, K, N]` of K heads by name, such as "read 1", for `MemoryCore.weightings`."""
    return {f"{kind} {number}": head for number, head in enumerate(weightings.unbind(1), start=1)}


def _require_one_device(inputs: Tensor, state: Tensor, resets: Tensor | None, weight: Tensor) -> None:
    device = weight.device
    if inputs.device == device == state.device and (resets is None or resets.device == device):
        return
    named = {"inputs": inputs, "state": state, "resets": resets, "core": weight}
    found = ", ".join(f"{name} on {value.device}" for name, value in named.items() if value is not None)
    raise InputError(f"{found}: must be on one device; move them with .to(device)")
