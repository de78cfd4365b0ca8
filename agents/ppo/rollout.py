"""The rollout of recurrent PPO: one time-major `[T, E]` block, cut into chunks for training."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.agents.policy.actions import sampled_block
from ntm_rl.errors import InputError

# What is stored as it is; other numbers of a Box are stored as float32, which is what the policies compute in.
_KEPT = {np.dtype(name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64")}


class Minibatch(NamedTuple):
    """B chunks of L consecutive steps each; blocks are time-major and flattened, `[L * B, ...]`.

    Attributes:
        observations: `[L * B, ...]`, a dict of such tensors for Dict spaces.
        actions: `[L * B, A]` as they were sampled, `[L * B]` for Discrete spaces.
        old_values: `[L * B]`, as all that follow.
        old_log_probs: of the actions under the policy that took them.
        advantages: GAE.
        returns: advantages plus old values.
        states: memory states before each chunk's first step, `[B, S]`.
        resets: `[L, B]` bool, true where an episode begins.
        chunks: Number of each chunk, `[B]`: `chunk * E + environment`.
    """

    observations: PyTorchObs
    actions: Tensor
    old_values: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    states: Tensor
    resets: Tensor
    chunks: Tensor


class Rollout:
    """T steps of E environments, with the memory state kept only where a chunk of L steps begins.

    All blocks are allocated once, on the training device, and are written in place. Where L does not divide T, the
    last chunk is shorter.

    Args:
        observation_space: The environments' observation space.
        action_space: The environments' action space.
        n_steps: T.
        n_envs: E.
        sequence_length: L, at most T.
        state_size: S, of the policy's memory state.
        device: Where the blocks live.

    Attributes:
        pos: Steps stored so far, as SB3's buffers count them.
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
    ):
        self.n_steps, self.n_envs, self.sequence_length = n_steps, n_envs, sequence_length
        self.device = device
        shape = (n_steps, n_envs)
        self.observations: Tensor | dict[str, Tensor]
        if isinstance(observation_space, spaces.Dict):
            self.observations = {key: _block(shape, space, device) for key, space in observation_space.spaces.items()}
        else:
            self.observations = _block(shape, observation_space, device)
        self.actions = sampled_block(action_space, shape, device)
        self.values = torch.zeros(shape, device=device)
        self.log_probs = torch.zeros(shape, device=device)
        self.resets = torch.zeros(shape, dtype=torch.bool, device=device)
        self.states = torch.zeros(math.ceil(n_steps / sequence_length), n_envs, state_size, device=device)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.ends = np.zeros(shape, dtype=np.bool_)
        self.advantages = torch.zeros(shape, device=device)
        self.returns = torch.zeros(shape, device=device)
        self.pos = 0

    def store_observation(self, step: int, obs: Any) -> PyTorchObs:
        """Copies the environments' observations into row `step` and returns that row.

        Where floats arrive for a space of integers, as `VecNormalize` makes them, the block becomes one of floats.
        """
        if not isinstance(self.observations, dict):
            source = _source(obs, self.observations)
            self.observations = _admitting(self.observations, source)
            return self.observations[step].copy_(source)
        row: dict[str, Tensor] = {}
        for key, block in self.observations.items():
            source = _source(obs[key], block)
            self.observations[key] = _admitting(block, source)
            row[key] = self.observations[key][step].copy_(source)
        return row

    def tensors(self, obs: Any) -> PyTorchObs:
        """Returns observations `[n, ...]` as `store_observation` would keep them."""

        def as_kept(array: Any, block: Tensor) -> Tensor:
            source = _source(array, block)
            kept = torch.float32 if source.is_floating_point() and not block.is_floating_point() else block.dtype
            return source.to(self.device, kept)

        if isinstance(self.observations, dict):
            return {key: as_kept(obs[key], block) for key, block in self.observations.items()}
        return as_kept(obs, self.observations)

    def stack(self, observations: list[Any]) -> PyTorchObs:
        """Returns observations of single environments, as `tensors` would for all at once."""
        if isinstance(observations[0], Mapping):
            return self.tensors({key: np.stack([each[key] for each in observations]) for key in observations[0]})
        return self.tensors(np.stack(observations))

    def store_resets(self, step: int, resets: np.ndarray) -> Tensor:
        """Copies `[E]` episode starts into row `step` and returns that row."""
        return self.resets[step].copy_(torch.from_numpy(resets))

    def store_state(self, step: int, state: Tensor) -> None:
        """Keeps the memory states `[E, S]` before `step` if a chunk begins there."""
        if step % self.sequence_length == 0:
            self.states[step // self.sequence_length] = state

    def compute_advantages(self, last_values: Tensor, gamma: float, gae_lambda: float) -> None:
        """Generalised advantage estimation (Schulman et al. 2016, equation 16).

        Rewards of truncated episodes already hold the discounted value of the true terminal observation, so the
        recursion stops at every end of an episode.

        Args:
            last_values: `[E]`, of the observations after the last step.
            gamma: Discount.
            gae_lambda: Decay of the advantage.
        """
        values = np.concatenate([self.values.cpu().numpy(), last_values.cpu().numpy()[None]])
        goes_on = 1.0 - self.ends.astype(np.float32)
        errors = self.rewards + gamma * goes_on * values[1:] - values[:-1]
        decay = gamma * gae_lambda * goes_on
        advantages = np.empty_like(errors)
        advantage = np.zeros(self.n_envs, dtype=np.float32)
        for step in reversed(range(self.n_steps)):
            advantage = errors[step] + decay[step] * advantage
            advantages[step] = advantage
        self.advantages.copy_(torch.from_numpy(advantages))
        torch.add(self.advantages, self.values, out=self.returns)

    def minibatches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[Minibatch]:
        """Yields all chunks in random order, `batch_size` transitions (at least one chunk) at a time.

        Chunks of one minibatch are equally long: the shorter last ones, if there are any, come in minibatches of their
        own after the others.
        """
        for first, chunks, length in self._chunks():
            order = torch.randperm(chunks, generator=generator).to(self.device) + first
            for chosen in order.split(max(1, batch_size // length)):
                yield self._gather(chosen, length)

    def minibatch_sizes(self, batch_size: int) -> list[int]:
        """Returns how many transitions the minibatches have."""
        sizes: list[int] = []
        for _, chunks, length in self._chunks():
            each = max(1, batch_size // length)
            sizes += [length * min(each, chunks - first) for first in range(0, chunks, each)]
        return sizes

    def _chunks(self) -> Iterator[tuple[int, int, int]]:
        """Yields the first number, the count and the length of equally long chunks."""
        whole, rest = divmod(self.n_steps, self.sequence_length)
        yield 0, whole * self.n_envs, self.sequence_length
        if rest:
            yield whole * self.n_envs, self.n_envs, rest

    def _gather(self, chosen: Tensor, length: int) -> Minibatch:
        chunk, env = chosen // self.n_envs, chosen % self.n_envs
        offsets = torch.arange(length, device=self.device).unsqueeze(1)
        rows = ((chunk * self.sequence_length + offsets) * self.n_envs + env).flatten()  # [L * B]

        def take(block: Tensor) -> Tensor:
            return block.flatten(0, 1).index_select(0, rows)

        observations = self.observations
        return Minibatch(
            {key: take(block) for key, block in observations.items()}
            if isinstance(observations, dict)
            else take(observations),
            take(self.actions),
            take(self.values),
            take(self.log_probs),
            take(self.advantages),
            take(self.returns),
            self.states.flatten(0, 1).index_select(0, chosen),
            take(self.resets).view(length, -1),
            chosen,
        )


def warn_of_sizes(rollout: Rollout, batch_size: int) -> None:
    """Warns, in SB3's words, where minibatches come out smaller or larger than asked for.

    A rollout that fits into one minibatch gives no warning.
    """
    sizes, total = rollout.minibatch_sizes(batch_size), rollout.n_steps * rollout.n_envs
    if set(sizes) == {batch_size} or len(sizes) == 1:
        return
    warnings.warn(
        f"You have specified a mini-batch size of {batch_size}, but because mini-batches hold whole sequences, here of "
        f"{rollout.sequence_length} steps, and the rollout is of size `n_steps * n_envs = {total}`, there will be "
        f"{len(sizes)} mini-batches of {' or '.join(map(str, sorted(set(sizes), reverse=True)))} transitions\n"
        "We recommend a `batch_size` that is a factor of `n_steps * n_envs` and a multiple of `sequence_length`.\n"
        f"Info: (n_steps={rollout.n_steps}, n_envs={rollout.n_envs} and sequence_length={rollout.sequence_length})",
        stacklevel=2,
    )


def _source(array: Any, block: Tensor) -> Tensor:
    """Returns what an environment gave as a tensor `[n, ...]` in the shape of its space."""
    source = torch.from_numpy(np.ascontiguousarray(array))
    shape = block.shape[2:]
    if source.shape[1:] == shape:
        return source
    if source[0].numel() != shape.numel():
        raise InputError(
            f"observations have shape {tuple(source.shape)}, and {tuple(shape)} each in the observation space; correct "
            "the space or what the vector environment returns"
        )
    return source.reshape(len(source), *shape)


def _admitting(block: Tensor, source: Tensor) -> Tensor:
    fits = block.is_floating_point() or not source.is_floating_point()
    return block if fits else block.float()


def _block(shape: tuple[int, int], space: spaces.Space[Any], device: torch.device) -> Tensor:
    if space.shape is None or space.dtype is None or space.dtype.kind not in "fiub":
        raise InputError(
            f"space = {space}: not supported; valid are Box, Discrete, MultiDiscrete, MultiBinary and, for "
            "observations, a Dict of these (flatten a Tuple with ntm_rl.envs)"
        )
    kept = np.zeros(0, space.dtype if space.dtype in _KEPT else np.float32 if isinstance(space, spaces.Box) else int)
    return torch.zeros(*shape, *space.shape, dtype=torch.from_numpy(kept).dtype, device=device)
