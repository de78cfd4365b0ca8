"""A core's step under torch.compile, and what happens where that cannot work."""

import warnings
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from ntm_rl.errors import InputError


class CompiledStep:
    """A method `step(from_input, last)` of a core from one NamedTuple of tensors to the next, compiled at first use.

    Args:
        step: The method.
        device: Where it will run.
        is_required: Whether a failing compiler is an error; else the step runs eagerly, after one warning.
    """

    def __init__(self, step: Callable[[Tensor, Any], Any], device: torch.device, is_required: bool):
        self._step, self._is_required, self._has_failed = step, is_required, False
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self._compiled = torch.compile(_with_own_code(step), mode=mode)

    def __call__(self, from_input: Tensor, last: Any) -> Any:
        """Runs the step.

        Raises:
            InputError: torch.compile fails, and is required.
        """
        if self._has_failed:
            return self._step(from_input, last)
        # Cloned: a CUDA graph writes over what its last replay returned. Contiguous: or each layout is compiled anew.
        given = type(last)(*(part.clone(memory_format=torch.contiguous_format) for part in last))
        try:
            return self._compiled(from_input, given)
        except Exception as error:  # whatever a user's compiler says
            after = self._step(from_input, last)  # raises what is wrong with the arguments
            self._give_up(error)
            return after

    def _give_up(self, error: Exception) -> None:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if self._is_required:
            raise InputError(f"backend = 'compile': torch.compile fails here; use auto or eager ({reason})") from error
        warnings.warn(f"torch.compile fails here; the core runs eagerly: {reason}", stacklevel=2)
        self._has_failed = True


def _with_own_code(step: Any) -> MethodType:
    """Returns a method with a code object of its own: torch.compile counts recompilations by code object.

    All cores of a process would else share one limit, beyond which they run eagerly.
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
