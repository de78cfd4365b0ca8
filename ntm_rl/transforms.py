"""Support for torch's transforms: vmap, export, forward-mode and second derivatives.

Kernels and custom autograd functions do not support them, so under a transform a core runs as plain operators.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether torch.func, forward-mode differentiation or torch.export is active, which need plain operators.

    The same holds for dispatch modes (FakeTensorMode, make_fx, a FLOP counter), but not for torch.compile.
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    return torch._C._len_torch_dispatch_stack() > 0


def is_backward_transformed() -> bool:
    """Whether a backward pass is itself differentiated or transformed, so that it must run as plain operators.

    `torch.autograd.grad(..., is_grads_batched=True)` applies a separate vmap over the gradients.
    """
    vmap = torch._C._dispatch_key_parse("VmapMode")
    return torch.is_grad_enabled() or is_transformed() or torch._C._dispatch_tls_is_dispatch_key_included(vmap)


def differentiate(
    plain: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    gradients: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of a custom autograd function such that they can be differentiated again.

    Args:
        plain: The function as plain operators.
        tensors: Its arguments.
        needs: Whether each argument needs a gradient.
        gradients: Gradient of each result, or None.
    """
    with torch.enable_grad():
        # Views, so that arguments that depend on each other have separate gradients.
        given = [
            tensor.view_as(tensor) if need and tensor is not None else tensor
            for tensor, need in zip(tensors, needs, strict=True)
        ]
        results = plain(*given)
    pairs = [
        (result, gradient)
        for result, gradient in zip(results, gradients, strict=True)
        if gradient is not None and result.requires_grad
    ]
    wanted = [tensor for tensor, need in zip(given, needs, strict=True) if need and tensor is not None]
    found = iter(
        torch.autograd.grad(
            [result for result, _ in pairs],
            wanted,
            [gradient for _, gradient in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    )
    return tuple(
        next(found) if need and tensor is not None else None for tensor, need in zip(given, needs, strict=True)
    )


class _Running(nn.Module):
    """A module whose forward pass is a method of another module."""

    def __init__(self, module: nn.Module, run: Callable[..., Any]):
        super().__init__()
        self.module, self.run = module, run

    def forward(self, *arguments: Any) -> Any:
        return self.run(*arguments)


def with_weights(
    run: Callable[..., Any], module: nn.Module, weights: Mapping[str, Tensor], arguments: Sequence[Any]
) -> Any:
    """Returns `run(*arguments)`, a method of `module`, with `weights` in place of the module's own."""
    named = {f"module.{name}": weight for name, weight in weights.items()}
    return torch.func.functional_call(_Running(module, run), named, tuple(arguments))
