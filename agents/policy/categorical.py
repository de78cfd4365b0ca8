"""Categorical actions computed from logits, at a tenth of the overhead of a distribution object."""

import torch
from torch import Tensor

from ntm_rl.agents.parallel.ranks import SINGLE, Ranks


def sample(logits: Tensor, deterministic: bool, ranks: Ranks = SINGLE) -> tuple[Tensor, Tensor]:
    """Returns actions `[B]`, sampled or the most likely, and their log probabilities, from logits `[B, A]`.

    Samples by the exponential race: with e ~ Exp(1), the index of the smallest `e / p` has distribution p. Each rank
    draws the numbers of all ranks, as one process does.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    race = log_probs
    if not deterministic:
        count, actions_count = log_probs.shape
        race = log_probs - ranks.own(log_probs.new_empty(ranks.size * count, actions_count).exponential_()).log_()
    actions = race.argmax(dim=-1)
    return actions, log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def evaluate(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log probabilities of `actions` `[B]` and entropies `[B]` under logits `[B, A]`."""
    log_probs = torch.log_softmax(logits, dim=-1)
    entropy = -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)  # 0 * inf is NaN
    return log_probs.gather(-1, actions.unsqueeze(-1).long()).squeeze(-1), entropy
