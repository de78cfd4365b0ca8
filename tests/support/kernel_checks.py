"""Fused kernels compared with eager cores, their specification: values, states and gradients."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given, settings
from torch import Tensor

from ntm_rl.cores.base import MemoryCore

VALUES = ("outputs", "after")  # the other results of a run are gradients


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest error of each tensor, relative to its size: single elements are sums that may cancel."""
    scales = {name: value.detach().abs().max().clamp(min=1e-6) for name, value in exact.items()}
    return {name: ((found[name] - value).abs().max() / scales[name]).item() for name, value in exact.items()}


class KernelCheck:
    """Compares a core with `backend="fused"` with the same core with `backend="eager"`.

    Args:
        kind: Class of the core.
        run: Returns values and all gradients of a core on a sequence of a shape, whose last number is a seed.
    """

    def __init__(self, kind: type[MemoryCore], run: Callable[[Any, tuple], dict[str, Tensor]]):
        self.kind, self.run = kind, run

    def pair(self, options: dict, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
        """An eager and a fused core with 4 inputs and the same weights."""
        eager, fused = (self.kind(4, backend=backend, **options).to(dtype) for backend in ("eager", "fused"))
        fused.load_state_dict(eager.state_dict())
        return eager, fused

    def errors_of_both(self, options: dict, shape: tuple, dtype: torch.dtype) -> tuple[dict, dict]:
        """Errors of the fused and of the eager core against the eager one in float64."""
        torch.manual_seed(shape[-1])
        eager, fused = self.pair(options, dtype)
        exact, _ = self.pair(options, torch.float64)
        exact.load_state_dict(eager.state_dict())
        expected = self.run(exact, shape)
        return errors(self.run(fused, shape), expected), errors(self.run(eager, shape), expected)

    def assert_agree(self, options: dict, shape: tuple, dtype: torch.dtype, tolerance: float, of_gradients: float):
        """Errors are within the tolerances, or not much larger than those of the eager core."""
        fused, eager = self.errors_of_both(options, shape, dtype)
        for name, error in fused.items():
            allowed = tolerance if name in VALUES else of_gradients
            assert error < max(allowed, 3 * eager[name]), (name, error, eager[name])

    def float32_errors(self, options: Any, shapes: Any, count: int = 1500) -> tuple[list[float], list[float]]:
        """Errors of the fused and of the eager core in float32, of all tensors of `count` examples."""
        fused: list[float] = []
        eager: list[float] = []

        @settings(max_examples=count, deadline=None, derandomize=True)
        @given(options, shapes)
        def measure(options, shape):
            for found, found_now in zip(
                (fused, eager), self.errors_of_both(options, shape, torch.float32), strict=True
            ):
                found.extend(found_now.values())

        measure()
        return fused, eager


def values_and_gradients_of_an_empty_batch(core: Any) -> list[Tensor]:
    """Results of two steps of no sequences, with and without gradients, and the gradients."""
    inputs, state = torch.zeros(2, 0, core.input_size, requires_grad=True), core.initial_state(0)
    results = core(inputs, state, torch.zeros(2, 0, dtype=torch.bool))
    sum(result.sum() for result in results).backward()
    with torch.no_grad():
        results += core(inputs, state)
    return [*results, inputs.grad, *(parameter.grad for parameter in core.parameters())]
