"""A core's step under torch.compile, with a fallback to eager."""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from ntm_rl.errors import InputError

# Of torch on GPUs: a core computes without TF32 on purpose, and each step of a sequence is a CUDA graph of its own, as
# gradients are taken at the end of the sequence.
EXPECTED_WARNINGS = ("TensorFloat32 tensor cores", "Unable to hit fast path of CUDAGraphs")


@cache
def has_triton() -> bool:
    """Whether torch can compile for a GPU."""
    return find_spec("triton") is not None


class CompiledStep:
    """A method `step(from_input, last)` of a core on NamedTuples of tensors, compiled at first use.

    Args:
        step: The method.
        device: Device on which it runs.
        is_required: Whether a failure of the compiler is an error; else the step runs eagerly after one warning.
    """

    def __init__(self, step: Callable[[Tensor, Any], Any], device: torch.device, is_required: bool):
        self._step, self._is_required, self._has_failed = step, is_required, False
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        if device.type == "cuda":
            for message in EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
        self._compiled = torch.compile(_with_own_code(step), mode=mode)

    def __call__(self, from_input: Tensor, last: Any) -> Any:
        """Runs the step.

        Raises:
            InputError: torch.compile fails and is required.
        """
        if self._has_failed:
            return self._step(from_input, last)
        # Cloned, as a CUDA graph overwrites the outputs of its last replay; contiguous, as each layout is recompiled.
        cloned = type(last)(*(part.clone(memory_format=torch.contiguous_format) for part in last))
        try:
            return self._compiled(from_input, cloned)
        except Exception as error:  # compilers raise many types
            after = self._step(from_input, last)  # raises the error of invalid arguments
            self._give_up(error)
            return after

    def _give_up(self, error: Exception) -> None:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if self._is_required:
            raise InputError(
                f"backend = 'compile': torch.compile fails on this machine; use auto or eager ({reason})"
            ) from error
        warnings.warn(f"torch.compile fails on this machine; the core runs eagerly: {reason}", stacklevel=2)
        self._has_failed = True


def _with_own_code(step: Any) -> MethodType:
    """Returns a method with its own code object.

    torch.compile limits recompilations per code object; beyond the limit, which all cores of a process would share,
    they run eagerly.
    """
    function = step.__func__
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return MethodType(own, step.__self__)
