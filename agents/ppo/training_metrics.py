"""The metrics of an update, with SB3's names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

if TYPE_CHECKING:
    from ntm_rl.agents.ppo.algorithm import MemoryPPO


def record_training(model: "MemoryPPO", metrics: Sequence[dict[str, Tensor]], first_of_epoch: int) -> None:
    """Records the metrics of an update in the model's logger.

    Args:
        model: The model after the update.
        metrics: The metrics of each minibatch; with several ranks, their shares, which are summed.
        first_of_epoch: Index of the first minibatch of the last epoch.
    """
    record, rollout = model.logger.record, model.rollout
    # One transfer from the device for all metrics.
    table = model.ranks.total(torch.stack([torch.stack(list(row.values())) for row in metrics])).cpu().numpy()
    for name, column in zip(metrics[0], table.T, strict=True):
        part = column[-1:] if name == "loss" else column[first_of_epoch:] if name == "approx_kl" else column
        record(f"train/{name}", float(part.mean()))  # as SB3: the last loss, and the last epoch's divergence
    if model.credit is not None:
        record("train/gae_lambda", model.credit.value.item())
    values, returns = (each.cpu().numpy().ravel() for each in (rollout.all_values, rollout.all_returns))
    record("train/explained_variance", explained_variance(values, returns))
    if hasattr(model.policy, "log_std"):
        record("train/std", torch.exp(model.policy.log_std).mean().item())
    record("train/n_updates", model._n_updates, exclude="tensorboard")
    record("train/clip_range", model.current(model.clip_range))
    if model.clip_range_vf is not None:
        record("train/clip_range_vf", model.current(model.clip_range_vf))
