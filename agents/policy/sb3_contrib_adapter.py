"""The interface of sb3-contrib's recurrent policies on top of time-major sequences and flat memory states.

sb3-contrib passes an LSTM's states as pairs `(h, c)`, one for the actor and one for the critic (`RNNStates`), and
flattens sequences batch-major. Here the flat state `[B, S]` of a memory core travels as h, `[1, B, S]`; c is all zeros.
"""

from abc import abstractmethod
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.agents.policy.actions import ActionConverter
from ntm_rl.agents.policy.ignored_masks import warn_of_ignored_masks
from ntm_rl.agents.policy.predict_arguments import (
    action_masks_of,
    checked_observation,
    episode_starts_of,
    lstm_states_of,
)
from ntm_rl.cores.base import MemoryCore
from ntm_rl.errors import InputError

LstmStates = tuple[Tensor, Tensor]


class RecurrentPolicyAdapter(RecurrentActorCriticPolicy):
    """The methods that `sb3_contrib.RecurrentPPO` and `predict` call, in terms of the abstract methods below.

    Attributes:
        core: The memory core, of the actor alone if the critic has its own.
        critic_core: The critic's memory core; None where it shares the actor's.
        action_converter: Converts sampled actions to the environment's.
    """

    core: MemoryCore
    critic_core: MemoryCore | None
    action_converter: ActionConverter
    _has_checked_masks = False

    @abstractmethod
    def step(
        self,
        obs: PyTorchObs,
        state: Tensor,
        resets: Tensor,
        deterministic: bool = False,
        action_masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns actions, values `[B]`, log probabilities `[B]` and new states for one step of B environments."""

    @abstractmethod
    def evaluate_sequences(
        self, obs: PyTorchObs, actions: Tensor, state: Tensor, resets: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns values, log probabilities and entropies, each `[T * B]`, of B sequences of T steps."""

    @abstractmethod
    def action_distribution(
        self, obs: PyTorchObs, actor_state: Tensor, resets: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Distribution, Tensor]:
        """Returns the distribution of the actions of B environments and the new states of the actor's core."""

    @abstractmethod
    def values(self, obs: PyTorchObs, state: Tensor, resets: Tensor) -> Tensor:
        """Returns the values `[B]` of observations; only the last columns of `state`, the critic's, are read."""

    @property
    def lstm_actor(self) -> Any:  # type: ignore[override]
        """The sizes with which `sb3_contrib.RecurrentPPO` allocates states."""
        return SimpleNamespace(num_layers=1, hidden_size=self.core.state_size)

    def forward(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: RNNStates | None = None,
        episode_starts: Tensor | None = None,
        deterministic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, RNNStates]:
        """Acts once in each of B environments.

        Raises:
            InputError: the algorithm passes no states, such as `stable_baselines3.PPO`.
            ValueError: a log probability is not finite, as torch's distributions raise it for their parameters.
        """
        if not isinstance(lstm_states, RNNStates) or episode_starts is None:
            _raise_no_states(self)
        if not self._has_checked_masks:
            self._has_checked_masks = True
            warn_of_ignored_masks()
        state = self._flat_state(lstm_states)
        actions, values, log_prob, state = self.step(obs, state, episode_starts.bool(), deterministic)
        _check_finite(log_prob)
        if self.action_converter.start is not None:
            actions = actions + self._int64(self.action_converter.start)
        actions = actions.reshape(-1, *(self.action_space.shape or ()))
        return actions, values.unsqueeze(1), log_prob, self._rnn_states(state)

    def evaluate_actions(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        actions: Tensor,
        lstm_states: RNNStates | None = None,
        episode_starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Evaluates the actions of B padded sequences, flattened batch-major to `[B * T, ...]`; raises as `forward`."""
        if not isinstance(lstm_states, RNNStates) or episode_starts is None:
            _raise_no_states(self)
        state = self._flat_state(lstm_states)
        batch = len(state)
        converter = self.action_converter
        if converter.start is not None:  # the modulo makes valid actions of the padding's zeros
            actions = (actions - self._int64(converter.start)) % self._int64(converter.sizes)
        if isinstance(self.action_space, (spaces.Box, spaces.MultiBinary)):
            actions = actions.float()  # RecurrentPPO stores them in the space's dtype
        values, log_prob, entropy = self.evaluate_sequences(
            _map_observations(obs, lambda block: _time_major(block, batch)),
            _time_major(actions, batch),
            state,
            episode_starts.bool().view(batch, -1).t(),
        )
        _check_finite(log_prob)
        entropy = None if entropy is None else _batch_major(entropy, batch)
        return _batch_major(values, batch).unsqueeze(1), _batch_major(log_prob, batch), entropy

    def get_distribution(  # type: ignore[override]
        self,
        obs: PyTorchObs,
        lstm_states: LstmStates | None = None,
        episode_starts: Tensor | None = None,
        action_masks: Tensor | None = None,
    ) -> tuple[Distribution, tuple[Tensor, ...]]:
        """Returns the action distribution and the actor's new states `(h, c)`, each `[1, B, S]`."""
        if lstm_states is None or episode_starts is None:
            _raise_no_states(self)
        distribution, state = self.action_distribution(obs, lstm_states[0][0], episode_starts.bool(), action_masks)
        return distribution, _lstm_states(state)

    def predict_values(
        self, obs: PyTorchObs, lstm_states: LstmStates | None = None, episode_starts: Tensor | None = None
    ) -> Tensor:
        """Returns the values `[B, 1]` of observations in the critic's states `(h, c)`, each `[1, B, S]`."""
        if lstm_states is None or episode_starts is None:
            _raise_no_states(self)
        return self.values(obs, lstm_states[0][0], episode_starts.bool()).unsqueeze(1)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Returns the environment's actions for one observation or a batch of B, and the new memory state.

        Args:
            observation: In the shape of the space, or `[B, ...]`.
            state: The state that the last call returned; None at the start of episodes.
            episode_start: Whether an episode begins: one bool for all, or B bools. None means False.
            deterministic: Take the most likely action instead of a sample.
            action_masks: Allowed values of discrete actions, `[n]` or `[B, n]` bool, as of `sb3_contrib.MaskablePPO`;
                None: all.

        Raises:
            InputError: an observation outside the space; a state, episode starts or masks of another size; or a mask
                that allows no action.
        """
        self.set_training_mode(False)
        tensors, is_batch = self.obs_to_tensor(checked_observation(observation, self.observation_space))
        batch = len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)
        starts = torch.from_numpy(episode_starts_of(episode_start, batch)).to(self.device)
        masks = action_masks_of(action_masks, batch, self.action_space, self.device)
        with torch.no_grad():
            before = lstm_states_of(state, batch, self.core.state_size, self.device)
            distribution, after = self.get_distribution(tensors, before, starts, masks)
            sampled = distribution.get_actions(deterministic=deterministic)
        actions = self.action_converter(sampled.cpu().numpy())
        return actions if is_batch else actions.squeeze(axis=0), tuple(part.cpu().numpy() for part in after)

    def _flat_state(self, states: RNNStates) -> Tensor:
        if self.critic_core is None:
            return states.pi[0][0]
        return torch.cat([states.pi[0][0], states.vf[0][0]], dim=1)

    def _rnn_states(self, state: Tensor) -> RNNStates:
        size = self.core.state_size
        return RNNStates(_lstm_states(state[:, :size]), _lstm_states(state[:, -size:]))

    def _int64(self, numbers: Any) -> Tensor:
        return torch.as_tensor(numbers, dtype=torch.int64, device=self.device)


def _lstm_states(state: Tensor) -> LstmStates:
    """Returns a flat state `[B, S]` as `(h, c)`, each `[1, B, S]`."""
    hidden = state.unsqueeze(0)
    return hidden, torch.zeros_like(hidden)


def _map_observations(obs: PyTorchObs, function: Callable[[Tensor], Tensor]) -> PyTorchObs:
    return {key: function(value) for key, value in obs.items()} if isinstance(obs, dict) else function(obs)


def _time_major(block: Tensor, batch: int) -> Tensor:
    """`[B * T, ...]` -> `[T * B, ...]`."""
    return block.reshape(batch, -1, *block.shape[1:]).transpose(0, 1).flatten(0, 1)


def _batch_major(block: Tensor, batch: int) -> Tensor:
    """`[T * B, ...]` -> `[B * T, ...]`."""
    return block.reshape(-1, batch, *block.shape[1:]).transpose(0, 1).flatten(0, 1)


def _check_finite(log_prob: Tensor) -> None:
    """Raises a ValueError, as torch's distributions do; the Discrete case has no distribution, for speed."""
    if not torch.isfinite(log_prob).all():
        raise ValueError(
            f"log probabilities of actions = {log_prob}: must be finite; an observation or a weight is not "
            "(stable_baselines3.common.vec_env.VecCheckNan finds an observation)"
        )


def _raise_no_states(policy: object) -> NoReturn:
    raise InputError(
        f"policy = {type(policy).__name__}: this policy has a memory, but the algorithm does not pass its states "
        "(stable_baselines3.PPO and A2C cannot). Use ntm_rl.MemoryPPO or sb3_contrib.RecurrentPPO."
    )
