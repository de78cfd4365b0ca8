"""The interface of every memory core."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from ntm_rl.cores.access import Head, MemoryAccess
from ntm_rl.cores.devices import full_precision
from ntm_rl.cores.layout import StateLayout
from ntm_rl.errors import InputError

PRECISIONS = (torch.float32, torch.float64)  # half precision cannot represent step counts and memory contents
NO_TENSOR = {
    "inputs": "pad a PackedSequence (torch.nn.utils.rnn.pad_packed_sequence) and run it as [T, B, I]",
    "state": "begin with core.initial_state(batch)",
}
# A trace would fix the number of steps and the resets of its example.
NO_TORCHSCRIPT = "a core does not run in TorchScript (torch.jit); use torch.export.export or torch.compile"

CoreStep = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


class MemoryCore(nn.Module, ABC):
    """A recurrent network whose whole memory is one flat tensor, so that cores are interchangeable.

    Only the core itself knows the contents of its state. Element 0 is the *alive* flag, 1 after any step: an all-zero
    state (from sb3-contrib's zeroing and `predict(state=None)`) means "the initial state", learned or not.

    A new core sets `input_size`, `output_size` and `layout` in its constructor and implements `_run`. Its module is
    listed in `registry.py`.

    Attributes:
        input_size: I, features per step.
        output_size: O, features per step.
        layout: Names and shapes of the state's parts.
    """

    input_size: int
    output_size: int
    layout: StateLayout[Any]

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for kind in cls.__mro__:
            if "make_step" in vars(kind):
                break
            if any(name.startswith("_run") for name in vars(kind)):  # an inherited `make_step` would not call it
                cls.make_step = MemoryCore.make_step  # type: ignore[method-assign]
                break

    @property
    def state_size(self) -> int:
        """S, elements of the flat state of one sequence."""
        return self.layout.size

    def forward(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the core over a sequence; T calls of one step give the same as one call of T steps.

        Everything runs in the parameters' precision, also under autocast and where torch allows TF32.

        Args:
            inputs: `[T, B, I]`.
            state: `[B, S]`, from `initial_state` or an earlier call.
            resets: `[T, B]` bool. `resets[t, b]`: step t begins a new episode, so the state is set to the initial
                state before the step.

        Returns:
            Outputs `[T, B, O]` and the state `[B, S]` after the last step.

        Raises:
            InputError: arguments that do not fit each other or the core, more than one device, a core in half
                precision, or `torch.jit.trace`.
        """
        inputs, state = self._prepare(inputs, state, resets)
        with full_precision(inputs.device):
            return self._run(inputs, state, resets)

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

    def access(self, before: Tensor, after: Tensor) -> MemoryAccess:
        """Returns how the heads accessed the memory in a step, from the flat states `[B, S]` before and after it.

        In the first step of an episode, `before` is all zeros. By default the heads are those of `weightings`.
        """
        return MemoryAccess({name: Head(weighting) for name, weighting in self.weightings(after).items()})

    def activations(self, state: Tensor) -> Mapping[str, Tensor]:
        """Returns the activations `[B, X]` in a flat state `[B, S]` by name, for inspection.

        By default these are the parts `hidden` and `cell`, or, in a core without them, every part.
        """
        parts = {name: part.flatten(1) for name, part in self.unpack(state)._asdict().items() if part.numel()}
        return {name: parts[name] for name in ("hidden", "cell") if name in parts} or parts

    @final
    def outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> Tensor:
        """Returns the outputs of `forward` alone, which may be faster."""
        inputs, state = self._prepare(inputs, state, resets)
        with full_precision(inputs.device):
            return self._run_outputs(inputs, state, resets)

    @abstractmethod
    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Implements `forward` for checked arguments in the parameters' precision, without autocast."""

    def _run_outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> Tensor:
        """Returns the outputs of `_run` alone; a core may skip computations for the state."""
        return self._run(inputs, state, resets)[0]

    def make_step(self) -> CoreStep:
        """Returns a function for single steps without gradients while the parameters stay the same.

        Its arguments and results are those of `forward` with T = 1, unchecked and in the parameters' precision. A core
        may prepare its parameters here once for all steps.
        """
        return self._run

    def unpack(self, state: Tensor) -> Any:
        """Returns the named parts of a flat state `[B, S]`, a NamedTuple of views."""
        return self.layout.unpack(state)

    @final
    def initial_state(self, batch: int) -> Tensor:
        """Returns the state `[batch, S]` in which an episode begins.

        It is all zeros: `forward` replaces it by the (possibly learned) initial contents, so that these have gradients
        even if the state comes from a rollout buffer.
        """
        weight = self._weight()
        return torch.zeros(batch, self.state_size, dtype=weight.dtype, device=weight.device)

    def _weight(self) -> Tensor:
        """Returns a parameter, whose precision and device are the core's."""
        return next(self.parameters())

    def _prepare(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Checks the arguments of `forward`; returns inputs and state in the parameters' precision."""
        if torch._C._get_tracing_state() is not None:
            raise InputError(NO_TORCHSCRIPT)
        self._check_shapes(inputs, state, resets)
        weight = self._weight()
        _require_one_device(inputs, state, resets, weight)
        dtype = weight.dtype
        if dtype not in PRECISIONS:
            raise InputError(
                f"core in {dtype}: must be in torch.float32 or torch.float64 (core.float()), in which it also runs "
                "under autocast"
            )
        return inputs.to(dtype), state.to(dtype)

    def _check_shapes(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> None:
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
    def __prepare_scriptable__(self) -> nn.Module:
        raise InputError(NO_TORCHSCRIPT)


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
