"""Episode boundaries inside sequences, for cores that process all steps of a sequence in parallel.

Such a core multiplies steps of other episodes by weight 0, which does not remove NaN and infinity. They are set to 0
first, and outputs that depend on them in their own episode are set to NaN afterwards.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


def episode_numbers(inputs: Tensor, resets: Tensor | None) -> Tensor:
    """Returns the episode number `[T, B]` of each step of `[T, B, ...]`, counted within the sequence.

    0 is the episode that started before the sequence.
    """
    if resets is None:
        return torch.zeros(inputs.shape[:2], dtype=torch.int64, device=inputs.device)
    return resets.cumsum(0)


def remove_non_finite(inputs: Tensor, state: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Replaces inputs and states that are not finite, or whose norm would not be, by 0.

    Args:
        inputs: `[T, B, I]`.
        state: `[B, S]`.
        episodes: Episode number of each step, `[T, B]`.

    Returns:
        Inputs, state, and the mask `[T, B]` of steps to `poison`: these steps and all later ones of their episode.
    """
    limit = torch.finfo(inputs.dtype).max ** 0.5 / 16  # a layer squares its activations
    bad_steps, bad_states = ~(inputs.abs() < limit).all(2), ~(state.abs() < limit).all(1)  # false for NaN
    bad = torch.cat([bad_states.unsqueeze(0), bad_steps])
    latest = torch.where(bad, torch.cat([torch.zeros_like(episodes[:1]), episodes]), -1).cummax(0).values
    inputs, state = inputs.masked_fill(bad_steps.unsqueeze(2), 0), state.masked_fill(bad_states.unsqueeze(1), 0)
    return inputs, state, latest[1:] == episodes


def poison(values: Tensor, where: Tensor) -> Tensor:
    """Returns values that are NaN where the mask is set; nonzero gradients become NaN there too."""
    poisoned: Tensor = _Poison.apply(values, where)  # type: ignore[no-untyped-call]
    return poisoned


class _Poison(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, where: Tensor) -> Tensor:
        return values.masked_fill(where, torch.nan)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (where,) = ctx.saved_tensors
        return gradient.masked_fill(where & (gradient != 0), torch.nan), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        (where,) = ctx.saved_tensors
        return tangent.masked_fill(where, torch.nan)


class Recent(NamedTuple):
    """A sequence of T steps with the K steps before it.

    Attributes:
        steps: `[K + T, B, F]`.
        episodes: Episode number of each step, `[K + T, B]`.
    """

    steps: Tensor
    episodes: Tensor

    @classmethod
    def join(cls, before: Tensor, steps: Tensor, episodes: Tensor) -> "Recent":
        """Joins the last K steps before the sequence `[B, K, F]` with its steps `[T, B, F]` and their episodes."""
        current = episodes.new_zeros(before.shape[1], before.shape[0])
        return cls(torch.cat([before.transpose(0, 1), steps]), torch.cat([current, episodes]))

    def lags(self, count: int) -> Iterator[Tensor]:
        """Yields the steps 0, 1, ... `count` - 1 steps ago, `[T, B, F]`; 0 before the episode."""
        total = len(self.steps)
        first = count - 1
        now = self.episodes[first:]
        yield self.steps[first:]
        for lag in range(1, count):
            past = slice(first - lag, total - lag)
            yield self.steps[past].masked_fill((self.episodes[past] != now).unsqueeze(2), 0)

    def last(self, count: int) -> Tensor:
        """Returns the last `count` steps `[B, count, F]`; 0 before the last step's episode."""
        past = slice(len(self.steps) - count, None)
        others = self.episodes[past] != self.episodes[-1]
        return self.steps[past].masked_fill(others.unsqueeze(2), 0).transpose(0, 1)
