"""The loss of PPO."""

import torch
from torch import Tensor

from ntm_rl.agents.ppo.rollout import Minibatch


def ppo_loss(
    batch: Minibatch,
    values: Tensor,
    log_probs: Tensor,
    entropy: Tensor | None,
    *,
    clip_range: float,
    clip_range_vf: float | None,
    ent_coef: float,
    vf_coef: float,
    normalize_advantage: bool,
    returns_variance: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the loss of a minibatch (Schulman et al. 2017, equation 9) and its metrics, without gradients.

    Args:
        batch: The minibatch, or this rank's part of it.
        values: Values under the current weights, `[L * B]`.
        log_probs: Log probabilities of the actions under the current weights, `[L * B]`.
        entropy: Entropies of the action distributions, `[L * B]`; None without a closed form.
        clip_range: Range of the clipped surrogate (equation 7).
        clip_range_vf: Range in which values may change; None: any.
        ent_coef: Weight of the entropy.
        vf_coef: Weight of the value loss, which is divided by `returns_variance`.
        normalize_advantage: Normalise advantages over the minibatch, unless it has only one.
        returns_variance: Running variance of the returns, a scalar.
    """
    advantages, every = batch.advantages, batch.all_advantages
    if normalize_advantage and len(every) > 1:
        advantages = (advantages - every.mean()) / (every.std() + 1e-8)
    log_ratio = log_probs - batch.old_log_probs
    ratio = torch.exp(log_ratio)
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
    if clip_range_vf is not None:
        values = batch.old_values + torch.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
    value_loss = torch.nn.functional.mse_loss(batch.returns, values)
    # Without a closed form the entropy is estimated by the negative log probability.
    entropy_loss = log_probs.mean() if entropy is None else -entropy.mean()
    loss = policy_loss + ent_coef * entropy_loss + vf_coef * value_loss / returns_variance
    with torch.no_grad():
        metrics = {
            "entropy_loss": entropy_loss.detach(),
            "policy_gradient_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "approx_kl": ((ratio - 1) - log_ratio).mean(),  # Schulman, "Approximating KL divergence" (2020)
            "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean(),
            "loss": loss.detach(),
        }
    return loss, metrics
