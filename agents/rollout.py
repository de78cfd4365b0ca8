"""The rollout of recurrent PPO: one time-major `[T, E]` block, cut into chunks for training."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.errors import InputError


class Minibatch(NamedTuple):
    """B chunks of L consecutive steps each; blocks are time-major and flattened, `[L * B, ...]`.

    Attributes:
        observations: `[L * B, ...]`, a dict of such tensors for Dict spaces.
        actions: `[L * B, ...]`.
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

    All blocks are allocated once, on the training device, and are written in place.

    Args:
        observation_space: The environments' observation space.
        action_space: The environments' action space.
        n_steps: T.
        n_envs: E.
        sequence_length: L, divides T.
        state_size: S, of the policy's memory state.
        device: Where the blocks live.
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
        self.actions = _block(shape, action_space, device)
        self.values = torch.zeros(shape, device=device)
        self.log_probs = torch.zeros(shape, device=device)
        self.resets = torch.zeros(shape, dtype=torch.bool, device=device)
        self.states = torch.zeros(n_steps // sequence_length, n_envs, state_size, device=device)
        self.rewards = np.zeros(shape, dtype=np.float32)
        self.ends = np.zeros(shape, dtype=np.bool_)
        self.advantages = torch.zeros(shape, device=device)
        self.returns = torch.zeros(shape, device=device)

    def store_observation(self, step: int, obs: np.ndarray | dict[str, np.ndarray]) -> PyTorchObs:
        """Copies the environments' observations into row `step` and returns that row."""
        if isinstance(self.observations, dict):
            assert isinstance(obs, dict)
            return {key: block[step].copy_(torch.from_numpy(obs[key])) for key, block in self.observations.items()}
        assert isinstance(obs, np.ndarray)
        return self.observations[step].copy_(torch.from_numpy(obs))

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
        """Yields all chunks in random order, `batch_size` transitions (at least one chunk) at a time."""
        chunks = self.states.shape[0] * self.n_envs
        per_batch = max(1, batch_size // self.sequence_length)
        order = torch.randperm(chunks, generator=generator).to(self.device)
        for chosen in order.split(per_batch):
            yield self._gather(chosen)

    def _gather(self, chosen: Tensor) -> Minibatch:
        chunk, env = chosen // self.n_envs, chosen % self.n_envs
        offsets = torch.arange(self.sequence_length, device=self.device).unsqueeze(1)
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
            take(self.resets).view(self.sequence_length, -1),
            chosen,
        )


def _block(shape: tuple[int, int], space: spaces.Space[Any], device: torch.device) -> Tensor:
    if space.shape is None or space.dtype is None:
        raise InputError(
            f"space = {space}: not supported; valid are Box, Discrete, MultiDiscrete, MultiBinary and, for "
            "observations, a Dict of these (flatten a Tuple with ntm_rl.envs)"
        )
    dtype = torch.from_numpy(np.zeros(0, dtype=space.dtype)).dtype
    dtype = torch.float32 if dtype == torch.float64 else dtype
    return torch.zeros(*shape, *space.shape, dtype=dtype, device=device)
