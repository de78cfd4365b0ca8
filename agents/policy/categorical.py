"""Discrete actions straight from logits: what a categorical distribution object costs ten times as much to do."""

import torch
from torch import Tensor


def sample(logits: Tensor, deterministic: bool) -> tuple[Tensor, Tensor]:
    """Returns actions `[B]`, sampled or the most likely, and their log probabilities, of logits `[B, A]`.

    Sampling is by exponential races: the index of the smallest `e / p` with e ~ Exp(1) has distribution p.
    """
    log_probs = torch.log_softmax(logits, dim=-1)
    race = log_probs if deterministic else log_probs - torch.empty_like(log_probs).exponential_().log_()
    actions = race.argmax(dim=-1)
    return actions, log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def evaluate(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Returns log probabilities of `actions` `[B]` and entropies `[B]` under logits `[B, A]`."""
    log_probs = torch.log_softmax(logits, dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, actions.unsqueeze(-1).long()).squeeze(-1), entropy
