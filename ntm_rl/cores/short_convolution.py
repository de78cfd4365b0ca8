"""Depthwise causal convolution over the last steps of an episode, as in Mamba and gated delta nets."""

from typing import Any

import torch
from torch import Tensor

from ntm_rl.cores.episodes import Recent
from ntm_rl.transforms import differentiate, is_backward_transformed, is_transformed


def short_convolution(steps: Tensor, recent: Tensor, episodes: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sum over lags of `kernel[lag]` times the step `lag` ago; steps before the episode count as 0.

    Args:
        steps: `[T, B, F]`.
        recent: The C - 1 steps before the sequence, `[B, C - 1, F]`, the oldest first.
        episodes: Episode number of each step, `[T, B]`, from `episode_numbers`.
        kernel: `[C, F]`, the current step first.

    Returns:
        The convolution `[T, B, F]` and the C - 1 most recent steps after the sequence.
    """
    if len(steps) == 1:  # faster than the general case, as an agent acts step by step
        recent = recent.masked_fill((episodes.t() > 0).unsqueeze(2), 0)
        window = torch.cat([recent, steps.transpose(0, 1)], dim=1)  # [B, C, F], the oldest first
        return (window * kernel.flip(0)).sum(1).unsqueeze(0), window[:, 1:]
    joined = Recent.join(recent, steps, episodes)
    return _convolve(*joined, kernel), joined.last(len(kernel) - 1)


def _convolve(steps: Tensor, episodes: Tensor, kernel: Tensor) -> Tensor:
    """Returns the convolution `[T, B, F]` of `[C - 1 + T, B, F]`."""
    if is_transformed():
        return _plain_convolution(steps, episodes, kernel)
    convolved: Tensor = _Convolution.apply(steps, episodes, kernel)  # type: ignore[no-untyped-call]
    return convolved


def _plain_convolution(steps: Tensor, episodes: Tensor, kernel: Tensor) -> Tensor:
    lags = zip(Recent(steps, episodes).lags(len(kernel)), kernel, strict=True)
    return torch.stack([step * weight for step, weight in lags]).sum(0)


class _Convolution(torch.autograd.Function):
    """The convolution accumulated in place, without autograd's copies."""

    @staticmethod
    def forward(ctx: Any, steps: Tensor, episodes: Tensor, kernel: Tensor) -> Tensor:
        """See `_convolve`."""
        first = len(kernel) - 1
        ctx.save_for_backward(steps, episodes, kernel)
        total = steps[first:] * kernel[0]
        for lag in range(1, len(kernel)):
            total.addcmul_(steps[first - lag : -lag].masked_fill(_other(episodes, first, lag), 0), kernel[lag])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        steps, episodes, kernel = ctx.saved_tensors
        if is_backward_transformed():
            of_steps, _, of_kernel = differentiate(
                lambda *tensors: (_plain_convolution(*tensors),), ctx.saved_tensors, ctx.needs_input_grad, (gradient,)
            )
            return of_steps, None, of_kernel
        first = len(kernel) - 1
        of_steps, of_kernel = torch.zeros_like(steps), torch.empty_like(kernel)
        for lag in range(len(kernel)):
            past = slice(first - lag, len(steps) - lag)
            other = _other(episodes, first, lag)
            of_steps[past].addcmul_(gradient.masked_fill(other, 0), kernel[lag])
            of_kernel[lag] = (gradient * steps[past].masked_fill(other, 0)).sum((0, 1))
        return of_steps, None, of_kernel


def _other(episodes: Tensor, first: int, lag: int) -> Tensor:
    """Returns whether the step `lag` ago is of another episode, `[T, B, 1]`."""
    return (episodes[first:] != episodes[first - lag : len(episodes) - lag]).unsqueeze(2)
