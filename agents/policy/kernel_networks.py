"""The networks of a policy after its core, as kernels read them."""

from collections.abc import Callable, Mapping
from inspect import isfunction
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ntm_rl.agents.policy.policies import POLICIES, MlpNtmPolicy
from ntm_rl.agents.policy.return_scale import ReturnScale
from ntm_rl.kernels.fused import is_fused

ACTIVATIONS = (nn.Tanh, nn.ReLU)  # in the kernels' order
KINDS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)  # of actions, in the kernels' order
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_DISTRIBUTIONS = (
    distributions.CategoricalDistribution,
    distributions.MultiCategoricalDistribution,
    distributions.BernoulliDistribution,
    distributions.DiagGaussianDistribution,
)


def _functions(kind: type) -> Mapping[str, Callable[..., Any]]:
    return {name: value for name, value in vars(kind).items() if isfunction(value)}


_REPLACED: tuple[type, ...] = (  # classes whose methods the kernels replace
    *POLICIES.values(),
    ActorCriticPolicy,
    MlpExtractor,
    ReturnScale,
    nn.Sequential,
    nn.Linear,
    *ACTIVATIONS,
)
_METHODS = [_functions(kind) for kind in _REPLACED]


class KernelNetworks(NamedTuple):
    """The networks of actor and critic, the scale of the values and the actions' distribution.

    Attributes:
        actor: Weights `[n, k]` and biases `[n]` of consecutive layers, in turn.
        critic: As `actor`.
        activation: Index in `ACTIVATIONS` of the function between layers.
        factor: Factor of the values, a scalar.
        offset: Offset of the values, a scalar.
        log_std: Logarithms of the standard deviations of Box actions, `[A]`; else None.
        kind: Index in `KINDS` of the action space.
        sizes: Numbers of values of the components of discrete actions.
    """

    actor: list[Tensor]
    critic: list[Tensor]
    activation: int
    factor: Tensor
    offset: Tensor
    log_std: Tensor | None
    kind: int
    sizes: list[int]

    @property
    def matrices(self) -> list[Tensor]:
        """All weights."""
        return [*self.actor[::2], *self.critic[::2]]

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters."""
        return [*self.actor, *self.critic, *([] if self.log_std is None else [self.log_std])]


def kernel_networks(policy: MlpNtmPolicy) -> KernelNetworks | None:
    """Returns a policy's networks for kernels; None for a policy that must run its own methods.

    Kernels run policies of this package on a CPU, but not those with hooks, replaced methods, other layers or
    distributions than SB3's, other activations, state-dependent exploration, other precisions than float32 or under
    autocast.
    """
    if not _is_plain(policy):
        return None
    networks, scale, space = policy.mlp_extractor, policy.return_scale, policy.action_space
    return KernelNetworks(
        actor=_weights(*networks.policy_net, policy.action_net),
        critic=_weights(*networks.value_net, policy.value_net),
        activation=ACTIVATIONS.index(policy.activation_fn),
        factor=scale.std,
        offset=scale.mean,
        log_std=policy.log_std if isinstance(space, spaces.Box) else None,
        kind=next(index for index, kind in enumerate(KINDS) if isinstance(space, kind)),
        sizes=_sizes(space),
    )


def _weights(*layers: nn.Module) -> list[Tensor]:
    """Returns weights and biases in turn; layers may share them."""
    return [each for layer in layers if isinstance(layer, nn.Linear) for each in (layer.weight, layer.bias)]


def _sizes(space: spaces.Space[Any]) -> list[int]:
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else []


def _is_plain(policy: MlpNtmPolicy) -> bool:
    networks, activation = policy.mlp_extractor, policy.activation_fn
    return (
        type(policy) in POLICIES.values()
        and [_functions(kind) for kind in _REPLACED] == _METHODS
        and type(policy.action_dist) in _DISTRIBUTIONS
        and type(networks) is MlpExtractor
        and _is_perceptron(networks.policy_net, policy.action_net, activation)
        and _is_perceptron(networks.value_net, policy.value_net, activation)
        and not policy.use_sde
        and all(each.dtype == torch.float32 and each.is_contiguous() for each in policy.parameters())
        and not any(map(_is_changed, policy.modules()))
        and not torch_module._has_any_global_hook()
        and not torch.is_autocast_enabled("cpu")
        and is_fused("auto", policy.device)
    )


def _is_perceptron(network: nn.Module, last: nn.Module, activation: type[nn.Module]) -> bool:
    if type(network) is not nn.Sequential or activation not in ACTIVATIONS:
        return False
    layers = [*network, last]  # not `children`, which has a repeated layer once
    kinds = [type(each) for each in layers]
    return kinds == [*(len(network) // 2 * [nn.Linear, activation]), nn.Linear] and None not in _weights(*layers)


def _is_changed(module: nn.Module) -> bool:
    """Whether a module has hooks or a replaced method."""
    own, kind = vars(module), type(module)
    return any(map(own.get, _HOOKS)) or any(isfunction(getattr(kind, name, None)) for name in own)
