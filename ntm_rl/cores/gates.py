"""Initialisation of a recurrent controller's gates by time constants."""

import math

import torch
from torch import Tensor


@torch.no_grad()
def chrono_initialize(bias: Tensor, horizon: int, controller: str) -> None:
    """Biases gates so that cells begin with time constants of 2 to about `horizon` steps.

    Chrono initialisation (Tallec and Ollivier 2018, arXiv:1804.11188, section 2.3), but with time constants that are
    uniform in their logarithm, as those of structured state spaces: most cells stay fast. With biases near 0 a cell
    loses half of its contents in every step, and inputs of 20 steps ago have almost no gradient.

    Args:
        bias: Bias of all gates, changed in place; in PyTorch's order (i, f, g, o of an LSTM; r, z, n of a GRU).
        horizon: Longest time constant in steps, at least 2.
        controller: `"lstm"` or `"gru"`; others have no such gates.
    """
    if controller == "feedforward":
        return
    keep = bias.chunk(4 if controller == "lstm" else 3)[1]
    keep.uniform_(0, math.log(horizon - 1))
    if controller == "lstm":
        bias.chunk(4)[0].copy_(-keep)
