"""Where episodes begin inside sequences, for cores that see all steps of a sequence at once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


def episode_numbers(inputs: Tensor, resets: Tensor | None) -> Tensor:
    """Returns for each of `[T, B, ...]` steps how many episodes have begun in the sequence, `[T, B]`.

    Steps of one episode have one number; 0 is the episode that was under way before the sequence.
    """
    if resets is None:
        return torch.zeros(inputs.shape[:2], dtype=torch.int64, device=inputs.device)
    return resets.cumsum(0)


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
