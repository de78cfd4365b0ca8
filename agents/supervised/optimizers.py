"""Optimizers of supervised training: Graves's RMSprop, Adam and SGD."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ntm_rl.agents.settings.sections import OptimizerSettings

DECAY, EPSILON = 0.95, 1e-4  # Graves 2013, eqs. 38-41


class GravesRmsProp(torch.optim.Optimizer):
    """RMSprop of Graves (2013, arXiv:1308.0850, eqs. 38-41), the optimizer of the NTM paper.

    Unlike in PyTorch's RMSprop, epsilon is inside the square root, and the momentum accumulates steps, not gradients:
    `n = 0.95 n + 0.05 g^2`, `m = 0.95 m + 0.05 g`, `d = momentum d - lr g / sqrt(n - m^2 + 1e-4)`, `w = w + d`.

    Args:
        parameters: The parameters to train.
        lr: Step size.
        momentum: Fraction of the last step that is added to the next.
        weight_decay: L2 penalty, added to the gradient.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-4, momentum: float = 0.9, weight_decay: float = 0.0
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs a single optimisation step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if parameters:
                self._step(group, parameters)
        return loss

    def _step(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for each in parameters:
            if not self.state[each]:
                self.state[each] = {key: torch.zeros_like(each) for key in ("square", "mean", "step_before")}
        squares, means, steps = (
            [self.state[each][key] for each in parameters] for key in ("square", "mean", "step_before")
        )
        gradients = [each.grad for each in parameters if each.grad is not None]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        torch._foreach_mul_(squares, DECAY)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - DECAY)
        torch._foreach_lerp_(means, gradients, 1 - DECAY)
        scales = torch._foreach_addcmul(squares, means, means, -1.0)
        torch._foreach_add_(scales, EPSILON)
        torch._foreach_sqrt_(scales)
        torch._foreach_mul_(steps, group["momentum"])
        torch._foreach_addcdiv_(steps, gradients, scales, -group["lr"])
        torch._foreach_add_(parameters, steps)


def make_optimizer(settings: OptimizerSettings, module: nn.Module) -> torch.optim.Optimizer:
    """Makes the optimizer of a module's parameters."""
    parameters = list(module.parameters())
    lr, decay = settings.learning_rate, settings.l2
    match settings.name:
        case "rmsprop":
            return GravesRmsProp(parameters, lr, settings.momentum, decay)
        case "adam":
            return torch.optim.Adam(parameters, lr, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(parameters, lr, settings.momentum, weight_decay=decay)
