"""Balances the gradients of actor and critic in a memory core that they share."""

from typing import Any

import torch
from torch import Tensor

CRITIC_SHARE = 0.1  # largest norm of the critic's gradient, relative to the norm of the actor's
NORM_EPSILON = 1e-12  # avoids a division by zero


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the outputs twice."""
        ctx.set_materialize_grads(False)
        return outputs.view_as(outputs), outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, actor_grad: Tensor | None, critic_grad: Tensor | None) -> Tensor | None:
        """See `balance`."""
        if actor_grad is None or critic_grad is None:
            return critic_grad if actor_grad is None else actor_grad
        scale = CRITIC_SHARE * actor_grad.norm() / (critic_grad.norm() + NORM_EPSILON)
        balanced: Tensor = actor_grad + critic_grad * scale.clamp(max=1)
        return balanced


def balance(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a core's outputs for the actor and for the critic.

    In the backward pass the critic's gradient is scaled down to at most a tenth of the actor's norm, over the whole
    minibatch. The actor's last layer begins with weights near 0, so that the critic's gradient would otherwise be some
    hundred times the actor's, and the core would learn to predict values instead of to act.
    """
    if not outputs.requires_grad:
        return outputs, outputs
    actor_outputs, critic_outputs = _Balance.apply(outputs)  # type: ignore[no-untyped-call]
    return actor_outputs, critic_outputs
