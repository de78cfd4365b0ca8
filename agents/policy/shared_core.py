"""Balances the gradients of actor and critic in a memory core that they share."""

from typing import Any

import torch
from torch import Tensor

from ntm_rl.agents.parallel.ranks import SINGLE, Ranks

CRITIC_SHARE = 0.1  # largest norm of the critic's gradient, relative to the norm of the actor's
NORM_EPSILON = 1e-12  # avoids a division by zero


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Returns the outputs twice."""
        ctx.set_materialize_grads(False)
        ctx.ranks = ranks
        return outputs.view_as(outputs), outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, actor_grad: Tensor | None, critic_grad: Tensor | None) -> tuple[Tensor | None, None]:
        """See `balance`."""
        if actor_grad is None or critic_grad is None:
            return critic_grad if actor_grad is None else actor_grad, None
        actor_norm, critic_norm = _norms(actor_grad, critic_grad, ctx.ranks)
        scale = CRITIC_SHARE * actor_norm / (critic_norm + NORM_EPSILON)
        return actor_grad + critic_grad * scale.clamp(max=1), None


def _norms(actor_grad: Tensor, critic_grad: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Returns the norms of the gradients over all ranks."""
    norms = actor_grad.norm(), critic_grad.norm()
    if ranks.size == 1:
        return norms
    squares = ranks.total(torch.stack(norms).square_())
    return squares[0].sqrt(), squares[1].sqrt()


def balance(outputs: Tensor, ranks: Ranks = SINGLE) -> tuple[Tensor, Tensor]:
    """Returns a core's outputs for the actor and for the critic.

    In the backward pass the critic's gradient is scaled down to at most a tenth of the actor's norm, over the whole
    minibatch of all ranks. The actor's last layer begins with weights near 0, so that the critic's gradient would
    otherwise be some hundred times the actor's, and the core would learn to predict values instead of to act.
    """
    if not outputs.requires_grad:
        return outputs, outputs
    actor_outputs, critic_outputs = _Balance.apply(outputs, ranks)  # type: ignore[no-untyped-call]
    return actor_outputs, critic_outputs
