"""The fused sequences as differentiable functions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ntm_rl.errors import InputError
from ntm_rl.kernels.loader import load_kernels


def is_fused(backend: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a core with this option `backend` and such weights runs its kernel.

    Raises:
        InputError: it must, and it cannot.
    """
    if backend == "fused" and device.type != "cpu":
        raise InputError(f"backend = 'fused': runs on the CPU alone, and this is {device}; use auto or eager")
    # A torch.compile around the core sees the eager steps, which it can fuse with what is around them.
    if backend not in ("auto", "fused") or device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if dtype not in (torch.float32, torch.float64):
        return False
    if load_kernels():
        return True
    if backend == "fused":
        raise InputError("backend = 'fused': the kernel could not be built (see the warning); use auto or eager")
    return False


def run_fused(
    kind: str, tensors: Sequence[Tensor | None], sizes: tuple[int, ...], clip: float
) -> tuple[Tensor, Tensor]:
    """Runs the kernel of a kind of core over a whole sequence, as `FusedSequence` has it."""
    if torch.is_grad_enabled():
        outputs, last = FusedSequence.apply(*tensors, kind, sizes, clip)  # type: ignore[no-untyped-call]
        return outputs, last
    outputs, last, _ = getattr(torch.ops.ntm_rl, f"{kind}_forward").default(*tensors, sizes, clip, False)
    return outputs, last


class FusedSequence(torch.autograd.Function):
    """Runs a whole sequence in one call; the eager cores `ntm` and `dnc`, whose `kind` it is, are the specification.

    Inputs: `inputs` `[T, B, I]`, `state` `[B, S]`, `start` `[1, S]` or None for zeros, `resets` `[T, B]` bool or None,
    what inputs, bias and feedback do to the controller's gates, `[G, I]`, `[G]` and `[G, F]`, weight and bias of the
    layer that speaks to the memory, the kind, the sizes and the clipping range. Outputs: `[T, B, O]` and the last state
    `[B, S]`.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        *tensors, kind, sizes, clip = arguments
        inputs, state, start, resets, weight_input, _, feedback, head_weight, _ = tensors
        outputs, last, kept = getattr(torch.ops.ntm_rl, f"{kind}_forward").default(*tensors, sizes, clip, True)
        ctx.kind, ctx.sizes, ctx.clip = kind, sizes, clip
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, state, start, resets, weight_input, feedback, head_weight, outputs, kept)
        return outputs, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_last: Tensor | None) -> tuple[Any, ...]:
        """See the class."""
        needs = ctx.needs_input_grad[:3]
        run_backward = getattr(torch.ops.ntm_rl, f"{ctx.kind}_backward").default
        *given, d_start, d_weight_input, d_bias, d_feedback, d_head_weight, d_head_bias = run_backward(
            d_outputs, d_last, needs, *ctx.saved_tensors, ctx.sizes, ctx.clip
        )
        d_inputs, d_state, d_start = (
            gradient if is_needed else None
            for gradient, is_needed in zip((*given, d_start.sum(0, keepdim=True)), needs, strict=True)
        )
        d_weights = (d_weight_input, d_bias, d_feedback, d_head_weight, d_head_bias)
        return d_inputs, d_state, d_start, None, *d_weights, None, None, None


class FusedLstm(torch.autograd.Function):
    """Runs a layer of an LSTM over a whole sequence; `torch.nn.LSTM`, begun anew at each reset, is the specification.

    Inputs: `inputs` `[T, B, I]`, hidden and cell state `[B, H]`, `resets` `[T, B]` bool or None, torch's weights
    `[4 H, I]` and `[4 H, H]`, and the sum of its biases, `[4 H]`. Outputs: `[T, B, H]` and the last cell `[B, H]`.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        inputs, _, _, resets, weight_input, weight_hidden, _ = tensors
        outputs, last_cell, *kept = torch.ops.ntm_rl.lstm_forward.default(*tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, resets, weight_input, weight_hidden, *kept)
        return outputs, last_cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_last_cell: Tensor | None) -> tuple[Any, ...]:
        """See the class."""
        needs_inputs = ctx.needs_input_grad[0]
        d_inputs, d_hidden, d_cell, *d_weights = torch.ops.ntm_rl.lstm_backward.default(
            d_outputs, d_last_cell, needs_inputs, *ctx.saved_tensors
        )
        return d_inputs if needs_inputs else None, d_hidden, d_cell, None, *d_weights
