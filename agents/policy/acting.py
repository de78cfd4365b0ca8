"""Steps of a policy in a rollout, in which its parameters stay the same."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ntm_rl.agents.policy.features import extract
from ntm_rl.agents.policy.policies import POLICIES, MlpNtmPolicy
from ntm_rl.kernels.fused import is_fused, lay_out

ACTIVATIONS = (nn.Tanh, nn.ReLU)  # in the kernel's order
KINDS = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_STEP = MlpNtmPolicy.step

Acted = tuple[Tensor, Tensor, Tensor, Tensor]
Act = Callable[[PyTorchObs, Tensor, Tensor, Tensor | None], Acted]


def make_actor(policy: MlpNtmPolicy) -> Act:
    """Returns a function that samples actions as `policy.step`, its specification, does: from the same random numbers.

    After the features, a policy of this package acts on a CPU in two calls of kernels: that of its core, and one for
    the networks after it and the sample. Other policies, those with hooks, replaced parts, separate features extractors
    or state-dependent exploration, and steps with action masks run `policy.step`.

    Args:
        policy: A policy; the function is called without gradients.
    """
    if not _is_plain(policy):
        return lambda obs, state, resets, masks: policy.step(obs, state, resets, False, masks)
    return FusedActor(policy)


class FusedActor:
    """See `make_actor`; the parameters are laid out for the kernels again after they have changed."""

    def __init__(self, policy: MlpNtmPolicy):
        self.policy = policy
        self._parameters = [*policy.parameters(), *policy.return_scale.buffers()]
        self._draw = _noise_of(policy.action_space)
        self._lay_out()

    def __call__(self, obs: PyTorchObs, state: Tensor, resets: Tensor, action_masks: Tensor | None) -> Acted:
        """See `MlpNtmPolicy.step`."""
        policy = self.policy
        if action_masks is not None:
            return policy.step(obs, state, resets, False, action_masks)
        if self._versions != [each._version for each in self._parameters]:
            self._lay_out()
        actor_inputs, critic_inputs, state = self._run_cores(obs, state, resets.unsqueeze(0))
        noise = policy.ranks.own(self._draw(policy.ranks.size * len(resets)))
        actions, values, log_probs = self._act(actor_inputs, critic_inputs, *self._before, noise, *self._after)
        return actions, values, log_probs, state

    @torch.no_grad()
    def _lay_out(self) -> None:
        policy, scale = self.policy, self.policy.return_scale
        self._versions = [each._version for each in self._parameters]
        self._core_steps = [core.make_step() for core in (policy.core, policy.critic_core) if core is not None]
        networks = [
            _weights(policy.mlp_extractor.policy_net, policy.action_net),
            _weights(policy.mlp_extractor.value_net, policy.value_net),
        ]
        laid_out = lay_out([weight for network in networks for weight in network[::2]])
        activation = ACTIVATIONS.index(policy.activation_fn)
        log_std = policy.log_std if isinstance(policy.action_space, spaces.Box) else None
        self._act = torch.ops.ntm_rl.act.default
        self._before = *networks, laid_out, activation, scale.std, scale.mean, log_std
        self._after = _kind(policy.action_space), _sizes(policy.action_space)

    def _run_cores(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the outputs of the actor's and of the critic's core, `[1, B, O]`, and the new states."""
        features = self._features(obs)
        if len(self._core_steps) == 1:
            outputs, state = self._core_steps[0](features, state, resets)
            return outputs, outputs, state
        (actor, critic), (of_actor, of_critic) = self._core_steps, state.chunk(2, dim=1)
        actor_outputs, of_actor = actor(features, of_actor, resets)
        critic_outputs, of_critic = critic(features, of_critic, resets)
        return actor_outputs, critic_outputs, torch.cat([of_actor, of_critic], dim=1)

    def _features(self, obs: PyTorchObs) -> Tensor:
        policy = self.policy
        features = extract(obs, policy.features_extractor, policy.observation_space, policy.normalize_images)
        return features.float().unsqueeze(0)


def _is_plain(policy: MlpNtmPolicy) -> bool:
    """Whether a policy consists of the parts that `FusedActor` replaces."""
    networks = policy.mlp_extractor
    return (
        type(policy) in POLICIES.values()
        and getattr(policy.step, "__func__", None) is _STEP
        and type(networks) is MlpExtractor
        and _is_perceptron(networks.policy_net, policy.action_net, policy.activation_fn)
        and _is_perceptron(networks.value_net, policy.value_net, policy.activation_fn)
        and policy.share_features_extractor
        and not policy.use_sde
        and all(each.dtype == torch.float32 and each.is_contiguous() for each in policy.parameters())
        and not any(map(_is_changed, policy.modules()))
        and not torch_module._has_any_global_hook()
        and not torch.is_autocast_enabled("cpu")
        and is_fused("auto", policy.device)
    )


def _is_perceptron(network: nn.Module, last: nn.Module, activation: type[nn.Module]) -> bool:
    kinds = [type(each) for each in network.children()]
    layers = len(kinds) // 2
    return activation in ACTIVATIONS and kinds == layers * [nn.Linear, activation] and type(last) is nn.Linear


def _is_changed(module: nn.Module) -> bool:
    """Whether a module has hooks or a replaced `forward`."""
    return "forward" in vars(module) or any(map(vars(module).get, _HOOKS))


def _weights(network: nn.Module, last: nn.Module) -> list[Tensor]:
    """Returns weights and biases of the layers, in turn."""
    return [*network.parameters(), *last.parameters()]


def _kind(space: spaces.Space[Any]) -> int:
    return next(index for index, kind in enumerate(KINDS) if isinstance(space, kind))


def _sizes(space: spaces.Space[Any]) -> list[int]:
    """Returns the numbers of values of the components of discrete actions."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    return space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else []


def _noise_of(space: spaces.Space[Any]) -> Callable[[int], Tensor]:
    """Returns a function that draws the random numbers `[n, N]` of n actions as torch's distributions do."""
    count = math.prod(space.shape or ())
    if isinstance(space, spaces.Box):
        return lambda rows: torch.randn(rows, count)
    if isinstance(space, spaces.MultiBinary):
        return lambda rows: torch.rand(rows, count)
    sizes = _sizes(space)
    return lambda rows: _races(rows, sizes)


def _races(rows: int, sizes: Sequence[int]) -> Tensor:
    races = [torch.empty(rows, size).exponential_() for size in sizes]
    return races[0] if len(races) == 1 else torch.cat(races, dim=1)
