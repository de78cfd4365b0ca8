"""The interface of every memory core, and the registry of cores by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from numbers import Integral, Real
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from ntm_rl.errors import InputError, did_you_mean
from ntm_rl.transforms import is_transformed

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


def _require_one_device(inputs: Tensor, state: Tensor, resets: Tensor | None, weight: Tensor) -> None:
    device = weight.device
    if inputs.device == device == state.device and (resets is None or resets.device == device):
        return
    named = {"inputs": inputs, "state": state, "resets": resets, "core": weight}
    found = ", ".join(f"{name} on {value.device}" for name, value in named.items() if value is not None)
    raise InputError(f"{found}: must be on one device; move them with .to(device)")


_CORES: dict[str, type[MemoryCore]] = {}
_BUILT_IN_MODULES = (
    "ntm_rl.ntm",
    "ntm_rl.recurrent",
    "ntm_rl.dnc",
    "ntm_rl.sparse",
    "ntm_rl.mann",
    "ntm_rl.gated_delta",
    "ntm_rl.transformer",
    "ntm_rl.feedforward",
)


def register_core(name: str) -> Callable[[type[MemoryCore]], type[MemoryCore]]:
    """Class decorator: makes a core available by `name` to policies, configs and the command line.

    The constructor takes `input_size` and keyword arguments annotated `Annotated[type, "one sentence"]`.
    """

    def register(core: type[MemoryCore]) -> type[MemoryCore]:
        _CORES[name] = core
        return core

    return register


def core_names() -> tuple[str, ...]:
    """Returns the names of all registered cores, in the order of registration."""
    for module in _BUILT_IN_MODULES:
        import_module(module)
    return tuple(_CORES)


def core_class(name: str) -> type[MemoryCore]:
    """Returns the core registered as `name`.

    Raises:
        InputError: there is no such core.
    """
    names = core_names()
    if name not in names:
        raise InputError(
            f"core = {name!r}: unknown core; valid are {', '.join(names)}.{did_you_mean(str(name), names)}"
        )
    return _CORES[name]


def make_core(name: str, input_size: int, **kwargs: Any) -> MemoryCore:
    """Builds the core registered as `name`.

    Raises:
        InputError: unknown core, unknown keyword, or a value out of range.
    """
    core = core_class(name)
    valid = core_options(name)
    for key in kwargs:
        if key not in valid:
            raise InputError(
                f"{key}: core {name!r} has no such option; it has {', '.join(valid)}.{did_you_mean(key, valid)}"
            )
    return core(input_size, **kwargs)


def core_options(name: str) -> tuple[str, ...]:
    """Returns the keyword arguments that the core registered as `name` takes."""
    annotations = core_class(name).__init__.__annotations__
    return tuple(key for key in annotations if key not in ("input_size", "return"))


def host_sees(device: torch.device) -> bool:
    """Whether looking at values costs nothing; elsewhere it waits for the device, on meta or traced there are none."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed()


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is on; torch itself raises for meta, which has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context without autocast; where there is none it is free, which a rollout's step notices (10 µs)."""
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()


def require_at_least(minimum: int, reason: str = "", **values: int) -> None:
    """Raises an `InputError`, with `reason`, for the first of `values` that is no integer or below `minimum`."""
    for key, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InputError(f"{key} = {value!r}: must be an integer, at least {minimum}{reason}")
        if value < minimum:
            raise InputError(f"{key} = {value}: must be at least {minimum}{reason}")


def require_positive(**values: float) -> None:
    """Raises an `InputError` for the first of `values` that is no number above 0."""
    for key, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not value > 0:
            raise InputError(f"{key} = {value!r}: must be a number above 0")


def require_bool(**values: bool) -> None:
    """Raises an `InputError` for the first of `values` that is neither true nor false."""
    for key, value in values.items():
        if not isinstance(value, bool):
            raise InputError(f"{key} = {value!r}: must be true or false")


def require_one_of(valid: tuple[str, ...], **values: str) -> None:
    """Raises an `InputError` for the first of `values` that is not in `valid`."""
    for key, value in values.items():
        if value not in valid:
            raise InputError(f"{key} = {value!r}: must be one of {', '.join(valid)}.{did_you_mean(str(value), valid)}")
