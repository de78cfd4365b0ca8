"""The rollout buffer of recurrent PPO: time-major `[T, E]` blocks, cut into sequences for training."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.agents.parallel.ranks import SINGLE, Ranks
from ntm_rl.agents.policy.actions import sampled_block
from ntm_rl.agents.ppo.exchange import assign, exchange
from ntm_rl.errors import InputError

# Types of a Box that are stored unchanged; others are stored as float32, in which the policies compute.
_STORED_TYPES = {np.dtype(name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64")}


class Minibatch(NamedTuple):
    """B sequences of L consecutive steps; blocks are time-major and flattened to `[L * B, ...]`.

    With several ranks, those of one rank: the minibatch is that of all ranks together.

    Attributes:
        observations: `[L * B, ...]`, or a dict of such tensors.
        actions: As sampled, `[L * B, A]`, `[L * B]` for Discrete spaces.
        old_values: Values in the rollout, `[L * B]`.
        old_log_probs: Log probabilities of the actions in the rollout, `[L * B]`.
        advantages: Generalised advantage estimates, `[L * B]`.
        returns: Targets of the values, `[L * B]`.
        states: Memory states before the first step of each sequence, `[B, S]`.
        resets: `[L, B]` bool, true where an episode begins.
        indices: Index of each sequence among those of all ranks, `[B]`: `number * environments + environment`.
        all_advantages: The advantages of all ranks' sequences, `[L * B]` or more.
        share: Fraction of the minibatch's sequences that is here.
        action_masks: Allowed values of the actions, `[L * B, n]` bool; None: all.
    """

    observations: PyTorchObs
    actions: Tensor
    old_values: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    states: Tensor
    resets: Tensor
    indices: Tensor
    all_advantages: Tensor
    share: float
    action_masks: Tensor | None

    @property
    def inputs(self) -> tuple[PyTorchObs, Tensor, Tensor, Tensor, Tensor | None]:
        """The arguments of `MlpNtmPolicy.evaluate_sequences`."""
        return self.observations, self.actions, self.states, self.resets, self.action_masks


class Rollout:
    """T steps of E environments, with memory states only at the start of each sequence of L steps.

    The blocks are allocated once, on the training device, and written in place. If L does not divide T, the last
    sequence of each environment is shorter.

    Args:
        observation_space: The environments' observation space.
        action_space: The environments' action space.
        n_steps: T.
        n_envs: E.
        sequence_length: L, at most T.
        state_size: S, the size of the policy's memory state.
        device: Device of the blocks.
        ranks: The ranks, each with a rollout of E environments.

    Attributes:
        pos: Steps stored so far.
        all_advantages, all_returns, all_values: The blocks `[T, E * ranks]` of all ranks, after `gather`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        n_steps: int,
        n_envs: int,
        sequence_length: int,
        state_size: int,
        device: torch.device,
        ranks: Ranks = SINGLE,
    ):
        self.n_steps, self.n_envs, self.sequence_length = n_steps, n_envs, sequence_length
        self.device, self.ranks = device, ranks
        shape = (n_steps, n_envs)
        self.observations: Tensor | dict[str, Tensor]
        if isinstance(observation_space, spaces.Dict):
            self.observations = {key: _block(shape, space, device) for key, space in observation_space.spaces.items()}
        else:
            self.observations = _block(shape, observation_space, device)
        self.actions = sampled_block(action_space, shape, device)
        self.action_masks: Tensor | None = None  # `[T, E, n]` bool
        self.values = torch.zeros(shape, device=device)
        self.log_probs = torch.zeros(shape, device=device)
        self.resets = torch.zeros(shape, dtype=torch.bool, device=device)
        self.states = torch.zeros(math.ceil(n_steps / sequence_length), n_envs, state_size, device=device)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.ends = np.zeros(shape, dtype=np.bool_)
        self.advantages = torch.zeros(shape, device=device)
        self.returns = torch.zeros(shape, device=device)
        self.all_advantages, self.all_returns, self.all_values = self.advantages, self.returns, self.values
        self.pos = 0

    @property
    def all_envs(self) -> int:
        """Number of environments of all ranks."""
        return self.n_envs * self.ranks.size

    @property
    def first_env(self) -> int:
        """Index of the first environment among those of all ranks."""
        return self.ranks.rank * self.n_envs

    def gather(self) -> None:
        """Gathers the advantages, returns and values of all ranks."""
        self.all_advantages, self.all_returns, self.all_values = self.advantages, self.returns, self.values
        if self.ranks.size > 1:
            blocks = torch.stack([self.advantages, self.returns, self.values])
            self.all_advantages, self.all_returns, self.all_values = self.ranks.gather(blocks, dim=2).unbind()

    def store_observation(self, step: int, obs: Any) -> PyTorchObs:
        """Copies observations into row `step` and returns that row.

        A block of integers becomes one of floats if floats arrive, as from `VecNormalize`.
        """
        if not isinstance(self.observations, dict):
            source = _source(obs, self.observations)
            self.observations = _promoted(self.observations, source)
            return self.observations[step].copy_(source)
        row: dict[str, Tensor] = {}
        for key, block in self.observations.items():
            source = _source(obs[key], block)
            self.observations[key] = _promoted(block, source)
            row[key] = self.observations[key][step].copy_(source)
        return row

    def tensors(self, obs: Any) -> PyTorchObs:
        """Returns observations `[n, ...]` in the types in which `store_observation` stores them."""

        def tensor(array: Any, block: Tensor) -> Tensor:
            source = _source(array, block)
            dtype = torch.float32 if source.is_floating_point() and not block.is_floating_point() else block.dtype
            return source.to(self.device, dtype)

        if isinstance(self.observations, dict):
            return {key: tensor(obs[key], block) for key, block in self.observations.items()}
        return tensor(obs, self.observations)

    def stack(self, observations: list[Any]) -> PyTorchObs:
        """Stacks observations of single environments and returns them as `tensors` does."""
        if isinstance(observations[0], Mapping):
            return self.tensors({key: np.stack([each[key] for each in observations]) for key in observations[0]})
        return self.tensors(np.stack(observations))

    def store_resets(self, step: int, resets: np.ndarray) -> Tensor:
        """Copies `[E]` episode starts into row `step` and returns that row."""
        return self.resets[step].copy_(torch.from_numpy(resets))

    def store_action_masks(self, step: int, masks: np.ndarray | None) -> Tensor | None:
        """Copies action masks `[E, n]` into row `step` and returns that row; None without masks."""
        if masks is None:
            self.action_masks = None
            return None
        if self.action_masks is None:
            shape = self.n_steps, *masks.shape
            self.action_masks = torch.ones(shape, dtype=torch.bool, device=self.device)
        return self.action_masks[step].copy_(torch.from_numpy(masks))

    def store_state(self, step: int, state: Tensor) -> None:
        """Stores the memory states `[E, S]` before `step` if a sequence begins there."""
        if step % self.sequence_length == 0:
            self.states[step // self.sequence_length] = state

    def compute_advantages(self, last_values: Tensor, gamma: float, gae_lambda: float) -> None:
        """Computes advantages and returns by generalised advantage estimation (Schulman et al. 2016, equation 16).

        The rewards of truncated episodes include the discounted value of the terminal observation, so the recursion
        stops at the end of every episode.

        Args:
            last_values: Values `[E]` of the observations after the last step.
            gamma: Discount factor.
            gae_lambda: Trade-off of bias and variance.
        """
        self.advantages.copy_(self.decayed_sums(self.errors(last_values, gamma), gamma * gae_lambda))
        torch.add(self.advantages, self.values, out=self.returns)

    def errors(self, last_values: Tensor, gamma: float) -> np.ndarray:
        """Returns the temporal-difference errors `[T, E]`; arguments as in `compute_advantages`."""
        values = np.concatenate([self.values.cpu().numpy(), last_values.cpu().numpy()[None]])
        errors: np.ndarray = self.rewards + gamma * values[1:] * self._non_terminal() - values[:-1]
        return errors

    def decayed_sums(self, errors: np.ndarray, decay: float) -> Tensor:
        """Returns the sums `[T, E]` of errors `[T, E]` from each step to the end of its episode, decayed per step."""
        decays = decay * self._non_terminal()
        sums = np.empty_like(errors)
        total = np.zeros(self.n_envs, dtype=np.float32)
        for step in reversed(range(self.n_steps)):
            total = errors[step] + decays[step] * total
            sums[step] = total
        return torch.from_numpy(sums)

    def sequence(self, number: int) -> tuple[PyTorchObs, Tensor, Tensor, Tensor, Tensor | None]:
        """Returns the `number`-th sequence of every environment: the arguments of `evaluate_sequences`."""
        steps = slice(number * self.sequence_length, (number + 1) * self.sequence_length)
        observations: PyTorchObs = (
            {key: value[steps].flatten(0, 1) for key, value in self.observations.items()}
            if isinstance(self.observations, dict)
            else self.observations[steps].flatten(0, 1)
        )
        masks = None if self.action_masks is None else self.action_masks[steps].flatten(0, 1)
        return observations, self.actions[steps].flatten(0, 1), self.states[number], self.resets[steps], masks

    @torch.no_grad()
    def recompute_states(self, advance: Callable[[PyTorchObs, Tensor, Tensor], Tensor]) -> None:
        """Recomputes the state before each sequence with the policy's `advance`, from the first one on."""
        state = self.states[0]
        for number in range(1, len(self.states)):
            observations, _, _, resets, _ = self.sequence(number - 1)
            state = advance(observations, state, resets)
            self.states[number] = state

    def _non_terminal(self) -> np.ndarray:
        """Returns 0 where a step ends an episode, else 1, `[T, E]`."""
        return 1.0 - self.ends.astype(np.float32)

    def minibatches(self, batch_size: int) -> Iterator[Minibatch]:
        """Yields all sequences in random order, `batch_size` transitions (at least one sequence) at a time.

        The sequences of a minibatch have equal length; shorter last sequences come after the others, in separate
        minibatches. With several ranks, minibatches are made of the sequences of all ranks, whose generators must have
        the same state, and each rank gets an equal part. Call `gather` before.
        """
        for first, count, length in self._groups():
            order = torch.randperm(count).to(self.device) + first
            batches = order.split(max(1, batch_size // length))
            if self.ranks.size > 1:
                yield from self._shared(batches, length)
            else:
                yield from (self._minibatch(self._take(indices, length), indices) for indices in batches)

    def minibatch_sizes(self, batch_size: int) -> list[int]:
        """Returns the numbers of transitions of the minibatches."""
        sizes: list[int] = []
        for _, count, length in self._groups():
            each = max(1, batch_size // length)
            sizes += [length * min(each, count - first) for first in range(0, count, each)]
        return sizes

    def _groups(self) -> Iterator[tuple[int, int, int]]:
        """Yields the first index, the number and the length of sequences of equal length, of all ranks."""
        full, rest = divmod(self.n_steps, self.sequence_length)
        yield 0, full * self.all_envs, self.sequence_length
        if rest:
            yield full * self.all_envs, self.all_envs, rest

    def _shared(self, batches: Sequence[Tensor], length: int) -> Iterator[Minibatch]:
        """Yields this rank's part of minibatches of sequences `[B]` of all ranks; see `exchange`."""
        every = torch.cat(list(batches)).cpu().numpy()
        owners = every % self.all_envs // self.n_envs
        splits = np.cumsum([len(each) for each in batches])[:-1]
        learners = np.concatenate([assign(each, self.ranks.size) for each in np.split(owners, splits)])
        rank = self.ranks.rank
        sent = self._take(self._local(every[(owners == rank) & (learners != rank)]), length)
        blocks = exchange(self.ranks, [each.movedim(0, 1) for each in sent], owners, learners)
        guests, first = [each.movedim(1, 0) for each in blocks], 0
        for indices, whose, who in zip(*(np.split(each, splits) for each in (every, owners, learners)), strict=True):
            mine = indices[(whose == rank) & (who == rank)]
            others = indices[(whose != rank) & (who == rank)]
            share = (len(mine) + len(others)) / len(indices)
            if share == 0:  # learns with weight 0, so that all ranks compute and sum gradients
                mine = indices[:1] // self.all_envs * self.all_envs + self.first_env
            part = [each[:, first : first + len(others)] for each in guests]
            taken = [torch.cat(pair, dim=1) for pair in zip(self._take(self._local(mine), length), part, strict=True)]
            first += len(others)
            rows = self._rows(torch.from_numpy(indices).to(self.device), length, self.all_envs)
            all_advantages = self.all_advantages.flatten().index_select(0, rows)
            here = torch.from_numpy(np.concatenate([mine, others]))
            yield self._minibatch(taken, here, all_advantages, share)

    def _local(self, indices: np.ndarray) -> Tensor:
        """Returns the indices in this rollout of its own sequences from those among all ranks' sequences."""
        number, env = indices // self.all_envs, indices % self.all_envs - self.first_env
        return torch.from_numpy(number * self.n_envs + env).to(self.device)

    def _rows(self, indices: Tensor, length: int, n_envs: int) -> Tensor:
        """Returns the rows `[L * B]` of sequences in the flattened blocks of `n_envs` environments."""
        number, env = indices // n_envs, indices % n_envs
        offsets = torch.arange(length, device=self.device).unsqueeze(1)
        return ((number * self.sequence_length + offsets) * n_envs + env).flatten()

    def _take(self, indices: Tensor, length: int) -> list[Tensor]:
        """Returns the blocks of sequences: observations, masks if any, others `[L, B, ...]`, and states `[1, B, S]`."""
        rows = self._rows(indices, length, self.n_envs)
        observations = self.observations.values() if isinstance(self.observations, dict) else [self.observations]
        masks = [] if self.action_masks is None else [self.action_masks]
        estimates = self.values, self.log_probs, self.advantages, self.returns
        blocks = *observations, *masks, self.actions, *estimates, self.resets
        taken = [each.flatten(0, 1).index_select(0, rows).unflatten(0, (length, len(indices))) for each in blocks]
        return [*taken, self.states.flatten(0, 1).index_select(0, indices).unsqueeze(0)]

    def _minibatch(
        self, blocks: Sequence[Tensor], indices: Tensor, all_advantages: Tensor | None = None, share: float = 1.0
    ) -> Minibatch:
        """Makes a minibatch of the blocks of `_take`."""
        *observations, actions, values, log_probs, advantages, returns, resets, states = blocks
        flat = [each.flatten(0, 1) for each in (*observations, actions, values, log_probs, advantages, returns)]
        *parts, actions, values, log_probs, advantages, returns = flat
        masks = None if self.action_masks is None else parts.pop()
        return Minibatch(
            dict(zip(self.observations, parts, strict=True)) if isinstance(self.observations, dict) else parts[0],
            actions,
            values,
            log_probs,
            advantages,
            returns,
            states[0],
            resets,
            indices,
            advantages if all_advantages is None else all_advantages,
            share,
            masks,
        )


def warn_of_sizes(rollout: Rollout, batch_size: int) -> None:
    """Warns, as SB3 does, if minibatches differ from `batch_size`, unless one holds the whole rollout."""
    sizes, total = rollout.minibatch_sizes(batch_size), rollout.n_steps * rollout.all_envs
    if set(sizes) == {batch_size} or len(sizes) == 1:
        return
    warnings.warn(
        f"You have specified a mini-batch size of {batch_size}, but because mini-batches hold whole sequences, here of "
        f"{rollout.sequence_length} steps, and the rollout is of size `n_steps * n_envs = {total}`, there will be "
        f"{len(sizes)} mini-batches of {' or '.join(map(str, sorted(set(sizes), reverse=True)))} transitions\n"
        "We recommend a `batch_size` that is a factor of `n_steps * n_envs` and a multiple of `sequence_length`.\n"
        f"Info: (n_steps={rollout.n_steps}, n_envs={rollout.all_envs} and sequence_length={rollout.sequence_length})",
        stacklevel=2,
    )


def _source(array: Any, block: Tensor) -> Tensor:
    """Returns an environment's array as a tensor `[n, ...]` in the shape of its space."""
    source = torch.from_numpy(np.ascontiguousarray(array))
    shape = block.shape[2:]
    if source.shape[1:] == shape:
        return source
    if source[0].numel() != shape.numel():
        raise InputError(
            f"observations have shape {tuple(source.shape)}, but {tuple(shape)} each in the observation space; correct "
            "the space, or the observations of the vector environment"
        )
    return source.reshape(len(source), *shape)


def _promoted(block: Tensor, source: Tensor) -> Tensor:
    return block.float() if source.is_floating_point() and not block.is_floating_point() else block


def _block(shape: tuple[int, int], space: spaces.Space[Any], device: torch.device) -> Tensor:
    if space.shape is None or space.dtype is None or space.dtype.kind not in "fiub":
        raise InputError(
            f"space = {space}: not supported; valid are Box, Discrete, MultiDiscrete, MultiBinary and, for "
            "observations, a Dict of these (flatten a Tuple with ntm_rl.envs)"
        )
    converted = np.dtype(np.float32 if isinstance(space, spaces.Box) else np.int64)
    example = np.zeros(0, space.dtype if space.dtype in _STORED_TYPES else converted)
    return torch.zeros(*shape, *space.shape, dtype=torch.from_numpy(example).dtype, device=device)
