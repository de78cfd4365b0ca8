"""Where episodes begin inside sequences, for cores that see all steps of a sequence at once.

Such a core mixes steps by products in which those of other episodes have weight 0. NaN and infinity would survive that:
they are taken out before, and what they reach in their own episode is spoiled afterwards.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor


def episode_numbers(inputs: Tensor, resets: Tensor | None) -> Tensor:
    """Returns for each of `[T, B, ...]` steps how many episodes have begun in the sequence, `[T, B]`.

    Steps of one episode have one number; 0 is the episode that was under way before the sequence.
    """
    if resets is None:
        return torch.zeros(inputs.shape[:2], dtype=torch.int64, device=inputs.device)
    return resets.cumsum(0)


def take_out(inputs: Tensor, state: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Takes out what is not finite, or so large that a norm of it is not.

    Args:
        inputs: `[T, B, I]`.
        state: `[B, S]`.
        episodes: Number of the episode of each step, `[T, B]`.

    Returns:
        Inputs and state with 0 for such steps and states, and which steps, `[T, B]`, are to be spoiled: those, and
        what comes after them in their episode.
    """
    limit = torch.finfo(inputs.dtype).max ** 0.5 / 16  # what a layer makes of it is squared
    bad_steps, bad_states = ~(inputs.abs() < limit).all(2), ~(state.abs() < limit).all(1)  # NaN is not below it
    bad = torch.cat([bad_states.unsqueeze(0), bad_steps])
    latest = torch.where(bad, torch.cat([torch.zeros_like(episodes[:1]), episodes]), -1).cummax(0).values
    inputs, state = inputs.masked_fill(bad_steps.unsqueeze(2), 0), state.masked_fill(bad_states.unsqueeze(1), 0)
    return inputs, state, latest[1:] == episodes


def spoil(values: Tensor, where: Tensor) -> Tensor:
    """Returns values that are NaN `where` it says so, and so are gradients that come from there, unless they are 0."""
    spoiled: Tensor = _Spoil.apply(values, where)  # type: ignore[no-untyped-call]
    return spoiled


class _Spoil(torch.autograd.Function):
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
    """The steps of a sequence behind the K steps before it.

    Attributes:
        steps: `[K + T, B, F]`.
        episodes: Number of the episode of each, `[K + T, B]`.
    """

    steps: Tensor
    episodes: Tensor

    @classmethod
    def join(cls, before: Tensor, steps: Tensor, episodes: Tensor) -> "Recent":
        """Joins K steps of the episode that was under way, `[B, K, F]`, with `[T, B, F]` and their numbers."""
        underway = episodes.new_zeros(before.shape[1], len(before))
        return cls(torch.cat([before.transpose(0, 1), steps]), torch.cat([underway, episodes]))

    def lags(self, count: int) -> Iterator[Tensor]:
        """Yields what T steps saw 0, 1, ... `count` - 1 steps ago, `[T, B, F]`; 0 before their episode began."""
        total = len(self.steps)
        first = count - 1
        now = self.episodes[first:]
        yield self.steps[first:]
        for lag in range(1, count):
            past = slice(first - lag, total - lag)
            yield self.steps[past].masked_fill((self.episodes[past] != now).unsqueeze(2), 0)

    def last(self, count: int) -> Tensor:
        """Returns the last `count` steps, `[B, count, F]`; 0 before the episode of the last began."""
        past = slice(len(self.steps) - count, None)
        others = self.episodes[past] != self.episodes[-1]
        return self.steps[past].masked_fill(others.unsqueeze(2), 0).transpose(0, 1)
