"""The fused NTM sequence as a differentiable function."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class FusedNtm(torch.autograd.Function):
    """Runs a whole sequence in one call; `ntm_rl.ntm.Ntm` is the specification.

    Inputs: `projected` `[T, B, G]` (the controller's gates as far as the inputs make them), `state` `[B, S]`, `start`
    `[1, S]`, `resets` `[T, B]` bool or None, `feedback` `[G, F]`, the head layer's weight and
    bias, the sizes and the clipping range. Outputs: `[T, B, O]` and the last state `[B, S]`.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        *tensors, shape, clip = arguments
        projected, state, start, _, feedback, head_weight, _ = tensors
        outputs, last, *blocks = torch.ops.ntm_rl.ntm_forward(*tensors, shape, clip)
        ctx.shape, ctx.clip = shape, clip
        ctx.save_for_backward(projected, state, start, feedback, head_weight, outputs, *blocks)
        return outputs, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, d_last: Tensor) -> tuple[Any, ...]:
        """See the class."""
        d_projected, d_state, d_start, d_feedback, d_weight, d_bias = torch.ops.ntm_rl.ntm_backward(
            d_outputs.contiguous(), d_last.contiguous(), *ctx.saved_tensors, ctx.shape, ctx.clip
        )
        return d_projected, d_state, d_start.sum(0, keepdim=True), None, d_feedback, d_weight, d_bias, None, None
