"""Steps of a policy in a rollout, in which its parameters stay the same."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.agents.policy.features import extract, make_step
from ntm_rl.agents.policy.kernel_networks import KernelNetworks, kernel_networks
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.kernels.fused import lay_out

Acted = tuple[Tensor, Tensor, Tensor, Tensor]
Act = Callable[[PyTorchObs, Tensor, Tensor, Tensor | None], Acted]

SAMPLES = 8  # elements of a parameter that are compared before each step, at least


def make_actor(policy: MlpNtmPolicy) -> Act:
    """Returns a function that samples actions as `policy.step`, its specification, does: from the same random numbers.

    After the features there are two calls of kernels: that of the core, and one for the networks after it and the
    sample. Policies that have no `kernel_networks` or two features extractors, and steps with action masks run
    `policy.step`.

    Args:
        policy: A policy; the function is called without gradients.
    """
    networks = kernel_networks(policy) if policy.share_features_extractor else None
    if networks is None:
        return lambda obs, state, resets, masks: policy.step(obs, state, resets, False, masks)
    return FusedActor(policy, networks)


class FusedActor:
    """See `make_actor`; the parameters are laid out for the kernels again after they have changed."""

    def __init__(self, policy: MlpNtmPolicy, networks: KernelNetworks):
        self.policy, self.networks = policy, networks
        self._parameters = list(policy.parameters())
        self._draw, self._act = _noise_of(policy.action_space, networks.sizes), torch.ops.ntm_rl.act.default
        self._lay_out()

    def __call__(self, obs: PyTorchObs, state: Tensor, resets: Tensor, action_masks: Tensor | None) -> Acted:
        """See `MlpNtmPolicy.step`."""
        policy = self.policy
        if action_masks is not None:
            return policy.step(obs, state, resets, False, action_masks)
        if self._watched != self._watch():
            self._lay_out()
        actor_inputs, critic_inputs, state = self._run_cores(obs, state, resets.unsqueeze(0))
        noise = policy.ranks.own(self._draw(policy.ranks.size * len(resets)))
        actions, values, log_probs = self._act(actor_inputs, critic_inputs, *self._before, noise, *self._after)
        return actions, values, log_probs, state

    @torch.no_grad()
    def _lay_out(self) -> None:
        policy, networks = self.policy, self.networks
        flat = [each.detach().numpy().ravel() for each in self._parameters]
        self._samples = [each[:: max(1, each.size // SAMPLES)] for each in flat]
        self._watched = self._watch()
        self._extractor = make_step(policy.pi_features_extractor)
        self._core_steps = [core.make_step() for core in (policy.core, policy.critic_core) if core is not None]
        actor, critic, *others, kind, sizes = networks
        self._before, self._after = (actor, critic, lay_out(networks.matrices), *others), (kind, sizes)

    def _watch(self) -> tuple[list[int], list[int], bytes]:
        """Returns what changes with the parameters.

        Writes to `parameter.data` and fused optimizers do not count as versions, so there are samples of the elements.
        """
        parameters = self._parameters
        versions, addresses = [each._version for each in parameters], [each.data_ptr() for each in parameters]
        return versions, addresses, np.concatenate(self._samples).tobytes()

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
        features = extract(obs, self._extractor, policy.observation_space, policy.normalize_images)
        return features.float().unsqueeze(0)


def _noise_of(space: spaces.Space[Any], sizes: Sequence[int]) -> Callable[[int], Tensor]:
    """Returns a function that draws the random numbers `[n, N]` of n actions as torch's distributions do."""
    count = math.prod(space.shape or ())
    if isinstance(space, spaces.Box):
        return lambda rows: torch.randn(rows, count, dtype=torch.float32)
    if isinstance(space, spaces.MultiBinary):
        return lambda rows: torch.rand(rows, count, dtype=torch.float32)
    return lambda rows: _races(rows, sizes)


def _races(rows: int, sizes: Sequence[int]) -> Tensor:
    races = [torch.empty(rows, size, dtype=torch.float32).exponential_() for size in sizes]
    return races[0] if len(races) == 1 else torch.cat(races, dim=1)
