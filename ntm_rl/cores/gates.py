"""Chrono initialisation of a recurrent controller's gates."""

import torch
from torch import Tensor


@torch.no_grad()
def chrono_initialize(bias: Tensor, horizon: int, controller: str) -> None:
    """Biases gates so that cells keep their contents for 2 to `horizon` steps.

    Tallec and Ollivier (2018), arXiv:1804.11188, equation 16. With biases near 0 a cell loses half of its contents in
    every step, and inputs of 20 steps ago have almost no gradient.

    Args:
        bias: Bias of all gates, changed in place; in PyTorch's order (i, f, g, o of an LSTM; r, z, n of a GRU).
        horizon: Longest time constant in steps, at least 3.
        controller: `"lstm"` or `"gru"`; others have no such gates.
    """
    if controller == "feedforward":
        return
    keep = bias.chunk(4 if controller == "lstm" else 3)[1]
    keep.copy_(torch.empty_like(keep).uniform_(1, horizon - 1).log_())
    if controller == "lstm":
        bias.chunk(4)[0].copy_(-keep)
