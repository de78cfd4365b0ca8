"""Sizes of rollouts, sequences and minibatches, and epochs, that fit an environment, for each that is "auto".

Explicit sizes win, and the others follow from them:

- The base is the limit of an episode's steps rounded up to a multiple of 32, from 128 to 512; 128 if no limit is known,
  or with fewer than 8 environments.
- `n_envs` (of configs): the multiple of 4 nearest to 4,096 / n_steps, from 8 to 32.
- `sequence_length`: the base, with an explicit `n_steps` all of it, or its largest part of at most 512 steps; less if a
  minibatch would not hold it.
- `n_steps`: the smallest multiple of `sequence_length` that has at least the base and, over all environments,
  `batch_size` transitions.
- `batch_size`: a quarter of the rollout, in whole sequences. If their number is not a multiple of 4, a fifth, a third
  or a half; if it is a multiple of none of these, the last minibatch is smaller. With fewer than 8 environments: one
  sequence.
- `n_epochs`: 4; with fewer than 8 environments 10. These then have the sizes of `sb3_contrib.RecurrentPPO`, whose many
  updates a small rollout needs.
"""

import math
from typing import Literal, NamedTuple

Size = int | Literal["auto"]
SIZES = ("n_steps", "batch_size", "sequence_length", "n_epochs")  # arguments of `MemoryPPO`, keys of `ppo` in configs

ROUNDING = 32  # steps
SHORTEST, LONGEST = 128, 512  # steps of a sequence
TRANSITIONS = 4096  # of a rollout, if the number of environments is chosen
MIN_ENVS, MAX_ENVS, ENVS_ROUNDING = 8, 32, 4
MINIBATCHES = (4, 5, 3, 2)  # per rollout, in the order of preference
EPOCHS, EPOCHS_OF_FEW = 4, 10  # from MIN_ENVS environments on, and below


class Sizes(NamedTuple):
    """Sizes of a training; see `MemoryPPO`."""

    n_envs: int
    n_steps: int
    batch_size: int | None
    sequence_length: int | None
    n_epochs: int


def choose_sizes(
    episode_limit: int | None,
    *,
    n_envs: Size = "auto",
    n_steps: Size = "auto",
    batch_size: Size | None = "auto",
    sequence_length: Size | None = "auto",
    n_epochs: Size = "auto",
) -> Sizes:
    """Chooses the sizes that are "auto"; None stays as it is.

    Args:
        episode_limit: Steps of the longest episode, None if unknown.
        n_envs: Number of environments.
        n_steps: Steps of each environment in a rollout.
        batch_size: Transitions of a minibatch.
        sequence_length: Steps of a sequence.
        n_epochs: Epochs per rollout.
    """
    has_few = isinstance(n_envs, int) and n_envs < MIN_ENVS
    longest = SHORTEST if has_few else LONGEST
    base = min(max(_round_up(episode_limit or SHORTEST, ROUNDING), SHORTEST), longest)
    if sequence_length == "auto":
        sequence_length = (
            _sequence_of(n_steps, batch_size, longest) if isinstance(n_steps, int) else _part_of(base, batch_size)
        )
    length = sequence_length or base
    steps = n_steps if isinstance(n_steps, int) else _round_up(base, length)
    envs = n_envs if isinstance(n_envs, int) else _envs(steps)
    if n_steps == "auto":
        transitions = batch_size if isinstance(batch_size, int) else 0
        steps = _round_up(max(steps, math.ceil(transitions / envs)), length)
    if batch_size == "auto":
        length = sequence_length or steps
        batch_size = length if has_few else _minibatch(envs, steps, length)
    if n_epochs == "auto":
        n_epochs = EPOCHS_OF_FEW if has_few else EPOCHS
    return Sizes(envs, steps, batch_size, sequence_length, n_epochs)


def fitting_length(n_steps: int, batch_size: int) -> int:
    """Returns the length of the parts of a rollout's steps, as few and equal as fit into a minibatch."""
    return math.ceil(n_steps / math.ceil(n_steps / batch_size))


def _envs(n_steps: int) -> int:
    return min(max(round(TRANSITIONS / n_steps / ENVS_ROUNDING) * ENVS_ROUNDING, MIN_ENVS), MAX_ENVS)


def _part_of(base: int, batch_size: Size | None) -> int:
    """Returns the length of sequences of which `n_steps` will be a multiple: `base`, or less to fit `batch_size`."""
    if not isinstance(batch_size, int):
        return base
    most = min(base, batch_size)
    return _largest_divisor(batch_size, most) or most


def _sequence_of(n_steps: int, batch_size: Size | None, longest: int) -> int:
    """Returns the length of sequences of a rollout of `n_steps`, in equal parts that fit `batch_size` if possible."""
    limit = batch_size if isinstance(batch_size, int) else n_steps
    divisor = _largest_divisor(math.gcd(n_steps, limit), min(n_steps, limit, longest))
    return divisor or fitting_length(n_steps, limit)


def _minibatch(n_envs: int, n_steps: int, sequence_length: int) -> int:
    sequences = n_envs * math.ceil(n_steps / sequence_length)
    minibatches = next((each for each in MINIBATCHES if sequences % each == 0), MINIBATCHES[0])
    return min(sequence_length * math.ceil(sequences / minibatches), n_envs * n_steps)


def _largest_divisor(number: int, most: int) -> int | None:
    """Returns the largest divisor of a number from `most / 2` to `most`, None if there is none."""
    return next((each for each in range(most, (most - 1) // 2, -1) if number % each == 0), None)


def _round_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple
