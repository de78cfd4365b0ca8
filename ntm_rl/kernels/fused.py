"""The fused NTM sequence as a differentiable function."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class FusedNtm(torch.autograd.Function):
    """Runs a whole sequence in one call; `ntm_rl.ntm.Ntm` is the specification.

    Inputs: `inputs` `[T, B, I]`, `state` `[B, S]`, `start` `[1, S]`, `resets` `[T, B]` bool or None, what inputs, bias
    and feedback do to the controller's gates, `[G, I]`, `[G]` and `[G, F]`, the head layer's weight and bias, the sizes
    and the clipping range. Outputs: `[T, B, O]` and the last state `[B, S]`.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        *tensors, shape, clip = arguments
        inputs, state, start, resets, weight_input, _, feedback, head_weight, _ = tensors
        outputs, last, kept = torch.ops.ntm_rl.ntm_forward(*tensors, shape, clip, True)
        ctx.shape, ctx.clip = shape, clip
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, state, start, resets, weight_input, feedback, head_weight, outputs, kept)
        return outputs, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor | None, d_last: Tensor | None) -> tuple[Any, ...]:
        """See the class."""
        needs = ctx.needs_input_grad[:3]
        *given, d_start, d_weight_input, d_bias, d_feedback, d_head_weight, d_head_bias = torch.ops.ntm_rl.ntm_backward(
            d_outputs, d_last, needs, *ctx.saved_tensors, ctx.shape, ctx.clip
        )
        d_inputs, d_state, d_start = (
            gradient if is_needed else None
            for gradient, is_needed in zip((*given, d_start.sum(0, keepdim=True)), needs, strict=True)
        )
        d_weights = (d_weight_input, d_bias, d_feedback, d_head_weight, d_head_bias)
        return d_inputs, d_state, d_start, None, *d_weights, None, None
