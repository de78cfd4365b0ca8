"""The fused block of an NTM as a differentiable function."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ntm_rl.transforms import differentiate, is_backward_transformed

Plain = Callable[..., tuple[Tensor, Tensor]]  # the block as plain operators
GIVEN = 4  # tensors before the weights


def run_block(
    tensors: Sequence[Tensor | None], sizes: tuple[int, ...], clip: float, plain: Plain
) -> tuple[Tensor, Tensor]:
    """Runs the kernel of the core `ntm_block` over a whole sequence, see `FusedBlock`."""
    if torch.is_grad_enabled():
        outputs, last = FusedBlock.apply(*tensors, sizes, clip, plain)  # type: ignore[no-untyped-call]
    else:
        given, weights = tensors[:GIVEN], tensors[GIVEN:]
        outputs, last, _ = torch.ops.ntm_rl.ntm_block_forward.default(*given, weights, sizes, clip, False)
    return outputs, last


class FusedBlock(torch.autograd.Function):
    """Runs a whole sequence in one call; the eager core is the specification.

    Inputs: `inputs` `[T, B, X]`, `state` `[B, S]`, the NTM's `start` `[1, S']`, `resets` `[T, B]` bool or None; the
    weights in the order of `BlockWeights` (ntm_block.h); the NTM's sizes, the clipping range, and the same sequence as
    plain operators for second derivatives. Outputs: `[T, B, H]` and the last state `[B, S]`.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        *tensors, sizes, clip, plain = arguments
        given, weights = tensors[:GIVEN], tensors[GIVEN:]
        outputs, last, kept = torch.ops.ntm_rl.ntm_block_forward.default(*given, weights, sizes, clip, True)
        ctx.sizes, ctx.clip, ctx.plain, ctx.count = sizes, clip, plain, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *kept)
        return outputs, last

    @staticmethod
    def backward(ctx: Any, d_outputs: Tensor | None, d_last: Tensor | None) -> tuple[Any, ...]:
        """See the class."""
        tensors, kept = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needs = ctx.needs_input_grad[: ctx.count]
        if is_backward_transformed():
            found = differentiate(ctx.plain, tensors, needs, (d_outputs, d_last))
            return (*found, None, None, None)
        needed = needs[: GIVEN - 1]
        d_inputs, d_state, d_start, d_weights = torch.ops.ntm_rl.ntm_block_backward.default(
            d_outputs, d_last, needed, *tensors[:GIVEN], tensors[GIVEN:], kept, ctx.sizes, ctx.clip
        )
        given = (d_inputs, d_state, d_start.sum(0, keepdim=True))
        d_given = (gradient if is_needed else None for gradient, is_needed in zip(given, needed, strict=True))
        return (*d_given, None, *d_weights, None, None, None)
