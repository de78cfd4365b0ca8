"""Normalisation of the value function's targets (PopArt)."""

import math

import torch
from torch import Tensor, nn

MIN_WEIGHT = 0.05  # of the newest rollout in the running statistics, which thus span about 20 rollouts
MIN_VARIANCE = 1e-8  # of returns that are all equal, as before the first reward


class ReturnScale(nn.Module):
    """Running mean and variance of the returns (PopArt: Hessel et al. 2018, arXiv:1809.04474, section 3).

    The value network predicts normalised returns, so that the size of the value loss does not depend on the rewards'.
    Before the first `update`, values are the network's outputs; `sb3_contrib.RecurrentPPO` never calls it.

    Attributes:
        mean: Running mean of the returns.
        std: Running standard deviation of the returns.
        count: Number of rollouts seen.
    """

    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("count", torch.zeros(()))

    @property
    def variance(self) -> Tensor:
        """Running variance of the returns."""
        return self.std.square()

    def forward(self, normalized: Tensor) -> Tensor:
        """Returns the values for normalised outputs of the value network."""
        return torch.addcmul(self.mean, normalized, self.std)  # one operation, as every step calls it

    @torch.no_grad()
    def update(self, layer: nn.Linear, returns: Tensor) -> None:
        """Adds a rollout's returns to the statistics and rescales a layer to keep its values (equations 4 and 5).

        The first rollout only sets the statistics, as the values of an untrained layer need not be kept. Returns whose
        variance overflows change nothing.

        Args:
            layer: The last layer of the value network, changed in place.
            returns: Any shape.
        """
        weight = max(1 / (self.count.item() + 1), MIN_WEIGHT)
        difference = returns.mean() - self.mean
        mean = self.mean + weight * difference
        spread = returns.var(unbiased=False) + (1 - weight) * difference.square()
        std = torch.lerp(self.variance, spread, weight).clamp(min=MIN_VARIANCE).sqrt()
        if not math.isfinite(mean + std):
            return
        if self.count > 0:
            layer.weight.mul_(self.std / std)
            layer.bias.mul_(self.std / std).add_((self.mean - mean) / std)
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.count += 1
