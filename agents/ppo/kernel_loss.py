"""The loss of PPO and the norm of its gradients in kernels; `ppo_loss` and torch's clipping are the specification."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ntm_rl.agents.policy.kernel_networks import KernelNetworks
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.loss import ppo_loss
from ntm_rl.agents.ppo.rollout import Minibatch
from ntm_rl.transforms import is_backward_transformed

METRICS = ("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss")


def minibatch_loss(
    policy: MlpNtmPolicy, networks: KernelNetworks | None, batch: Minibatch, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss of a minibatch and its metrics, computed by the kernel if the policy has `kernel_networks`.

    Args:
        policy: The policy.
        networks: Its `kernel_networks`.
        batch: The minibatch, or this rank's part of it.
        **options: Options of `ppo_loss`.
    """
    if networks is None or batch.action_masks is not None:
        evaluated = policy.evaluate_sequences(*batch.inputs)
        return ppo_loss(batch, *evaluated, **options, returns_variance=policy.return_scale.variance)
    inputs = policy.core_outputs(batch.observations, batch.states, batch.resets)
    return kernel_loss(policy, batch, *inputs, networks, **options)


def kernel_loss(
    policy: MlpNtmPolicy,
    batch: Minibatch,
    actor_inputs: Tensor,
    critic_inputs: Tensor,
    networks: KernelNetworks,
    *,
    clip_range: float,
    clip_range_vf: float | None,
    ent_coef: float,
    vf_coef: float,
    normalize_advantage: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss of a minibatch without action masks and its metrics, as `ppo_loss`.

    The kernel computes the gradients at the same time. Second derivatives are those of `ppo_loss`.

    Args:
        policy: The policy.
        batch: The minibatch, or this rank's part of it.
        actor_inputs: Inputs of the actor's network, `[L * B, O]`.
        critic_inputs: Inputs of the critic's network, `[L * B, O]`.
        networks: Its `kernel_networks`; their scale of the values gives the returns' variance.
        clip_range: See `ppo_loss`.
        clip_range_vf: See `ppo_loss`.
        ent_coef: See `ppo_loss`.
        vf_coef: See `ppo_loss`.
        normalize_advantage: See `ppo_loss`.
    """
    estimates = [each.float() for each in (batch.old_log_probs, batch.old_values, batch.advantages, batch.returns)]
    every = batch.all_advantages.float() if normalize_advantage else None
    range_vf = None if clip_range_vf is None else float(clip_range_vf)
    given = (batch.actions, *estimates, every, float(clip_range), range_vf, float(ent_coef), float(vf_coef))

    def plain(actor_inputs: Tensor, critic_inputs: Tensor) -> Tensor:
        extractor, variance = policy.mlp_extractor, policy.return_scale.variance
        latents = extractor.forward_actor(actor_inputs), extractor.forward_critic(critic_inputs)
        evaluated = policy.evaluate_latents(*latents, batch.actions)
        options: Any = dict(clip_range=clip_range, clip_range_vf=clip_range_vf, ent_coef=ent_coef, vf_coef=vf_coef)
        options.update(normalize_advantage=normalize_advantage, returns_variance=variance)
        return ppo_loss(batch, *evaluated, **options)[0]

    arguments = actor_inputs, critic_inputs, networks, given, plain, *networks.parameters
    loss, metrics = _KernelLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss, dict(zip(METRICS, metrics.unbind(), strict=True))


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Clips the norm of the gradients of float32 parameters on a CPU, as `torch.nn.utils.clip_grad_norm_`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not all(each.is_contiguous() for each in gradients):
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    norm: Tensor = torch.ops.ntm_rl.clip_gradients.default(gradients, max_norm)
    return norm


class _KernelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        actor_inputs: Tensor,
        critic_inputs: Tensor,
        networks: KernelNetworks,
        given: Any,
        plain: Callable[[Tensor, Tensor], Tensor],
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the loss, a scalar, and the metrics; `plain` gives the loss of the inputs as plain operators."""
        run = torch.ops.ntm_rl.ppo_gradients.default
        metrics, d_actor_inputs, d_critic_inputs, d_parameters = run(actor_inputs, critic_inputs, *networks, *given)
        ctx.gradients, ctx.plain = (d_actor_inputs, d_critic_inputs, None, None, None, *d_parameters), plain
        ctx.save_for_backward(actor_inputs, critic_inputs, *parameters)
        ctx.mark_non_differentiable(metrics)
        return metrics[-1].clone(), metrics

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradients, by 1 unless there are several ranks."""
        if is_backward_transformed():
            return _differentiate(ctx, d_loss)
        if d_loss == 1:
            return ctx.gradients  # type: ignore[no-any-return]
        return tuple(None if each is None else each * d_loss for each in ctx.gradients)


def _differentiate(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
    """Returns the gradients of `_KernelLoss` such that they can be differentiated again."""
    actor_inputs, critic_inputs, *parameters = ctx.saved_tensors
    with torch.enable_grad():
        loss = ctx.plain(actor_inputs, critic_inputs)
    tensors = actor_inputs, critic_inputs, None, None, None, *parameters
    wanted = [tensor for tensor, needs in zip(tensors, ctx.needs_input_grad, strict=True) if needs]
    graph = torch.is_grad_enabled()
    found = iter(torch.autograd.grad(loss, wanted, d_loss, create_graph=graph, allow_unused=True))
    return tuple(next(found) if needs else None for needs in ctx.needs_input_grad)
