"""Actions of an exported policy: the parameters of their distribution, and the most likely action."""

from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor, nn

from ntm_rl.agents.export.ports import Port, of_space, tensor_type
from ntm_rl.agents.policy.masked_logits import mask_logits
from ntm_rl.agents.policy.policies import MlpNtmPolicy


class Actions(nn.Module):
    """The last layer of an actor: actions of the environment's space, and the parameters of their distribution.

    Attributes:
        action_port: The output of actions.
        parameter_ports: The outputs of parameters: `logits`, or `mean` and `std` of a normal distribution.
    """

    action_port: Port
    parameter_ports: list[Port]

    def __init__(self, policy: MlpNtmPolicy):
        super().__init__()
        self.net, self.space = policy.action_net, policy.action_space
        self.shape, self.action_type = tuple(self.space.shape or ()), tensor_type(self.space.dtype)
        self.action_port = of_space("action", self.space, "the most likely action, as the environment takes it")

    def logits(self, latent: Tensor, masks: Tensor | None) -> Tensor:
        """Returns the logits of discrete actions, with masks `[B, sum of choices]` those of allowed ones."""
        logits: Tensor = self.net(latent)
        return logits if masks is None else mask_logits(logits, masks, self.space)

    def shaped(self, actions: Tensor) -> Tensor:
        """Returns actions `[B, ...]` in the shape and dtype of the space."""
        return actions.reshape(-1, *self.shape).to(self.action_type)


class _Categorical(Actions):
    """Discrete and MultiDiscrete actions."""

    start: Tensor

    def __init__(self, policy: MlpNtmPolicy):
        super().__init__(policy)
        self.sizes = np.atleast_1d(policy.action_converter.sizes).ravel().tolist()
        start = policy.action_converter.start
        self.register_buffer("start", torch.as_tensor(np.asarray(0 if start is None else start, dtype=np.int64)))
        each = f", {len(self.sizes)} groups of {self.sizes}" if len(self.sizes) > 1 else ""
        self.parameter_ports = [
            Port("logits", (sum(self.sizes),), "float32", f"log probabilities of the actions{each}")
        ]

    def forward(self, latent: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
        groups = self.logits(latent, masks).split(self.sizes, dim=1)
        actions = torch.stack([group.argmax(1) for group in groups], dim=1)
        logits = torch.cat([torch.log_softmax(group, dim=1) for group in groups], dim=1)
        return self.shaped(actions.reshape(-1, *self.shape) + self.start), logits


class _Binary(Actions):
    """MultiBinary actions."""

    def __init__(self, policy: MlpNtmPolicy):
        super().__init__(policy)
        self.parameter_ports = [Port("logits", self.shape, "float32", "log odds of 1 for each element of the action")]

    def forward(self, latent: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
        logits = self.logits(latent, masks)
        return self.shaped(logits > 0), logits


class _Normal(Actions):
    """Box actions: clipped, unscaled if squashed, and rounded if integers."""

    low: Tensor
    high: Tensor

    def __init__(self, policy: MlpNtmPolicy):
        super().__init__(policy)
        self.log_std, self.distribution, self.converter = policy.log_std, policy.action_dist, policy.action_converter
        self.squashed = policy.squash_output
        for name, bound in zip(("low", "high"), self.converter.bounds, strict=True):
            self.register_buffer(name, torch.as_tensor(np.asarray(bound)))
        size = (int(np.prod(self.shape)),)
        before = "before tanh and unscaling" if self.squashed else "before clipping"
        self.parameter_ports = [
            Port("mean", size, "float32", f"mean of the normal distribution of the action {before}"),
            Port("std", size, "float32", "its standard deviation"),
        ]

    def forward(self, latent: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
        mean = self.net(latent)
        actions = torch.tanh(mean) if self.squashed else mean
        fitted = self.converter.fit(actions.reshape(-1, *self.shape), self.low, self.high)
        return self.shaped(fitted), mean, self._std(latent, mean)

    def _std(self, latent: Tensor, mean: Tensor) -> Tensor:
        if isinstance(self.distribution, StateDependentNoiseDistribution):  # gSDE
            variance = latent.square() @ self.distribution.get_std(self.log_std).square()
            return torch.sqrt(variance + self.distribution.epsilon)
        return self.log_std.exp().expand_as(mean)


def actions_of(policy: MlpNtmPolicy) -> Actions:
    """Returns the last layer of a policy's actor."""
    kind: Callable[[MlpNtmPolicy], Actions] = _Categorical
    if isinstance(policy.action_space, spaces.Box):
        kind = _Normal
    elif isinstance(policy.action_space, spaces.MultiBinary):
        kind = _Binary
    return kind(policy)
