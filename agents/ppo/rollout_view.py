"""A rollout with the interface of SB3's rollout buffers, for callbacks."""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from torch import Tensor

from ntm_rl.agents.ppo.credit import CreditHorizon
from ntm_rl.agents.ppo.rollout import Rollout

_BLOCKS = ("observations", "actions", "rewards", "returns", "advantages", "values", "log_probs")


class RolloutBufferView:
    """The blocks of a `Rollout` as NumPy arrays `[n_steps, n_envs, ...]`, as in SB3's `model.rollout_buffer`.

    On the CPU the arrays share the rollout's memory, so that changes of a callback take effect. On a GPU they are
    copies; assign a whole array (`buffer.rewards = ...`) to change it.

    Attributes:
        observations: Observations; a dict of arrays for Dict spaces.
        actions: Sampled actions, `[n_steps, n_envs, A]`.
        rewards: Rewards; those of truncated episodes include the discounted value of the terminal observation.
        returns: Advantages plus values; with `gae_lambda="auto"`, those of lambda 0.95, from which the critic learns.
        advantages: Generalised advantage estimates; with `gae_lambda="auto"`, of the measured lambda.
        values: Values of the observations.
        log_probs: Log probabilities of the actions.
        episode_starts: 1.0 where an episode begins; a copy.
    """

    swap_and_flatten = staticmethod(BaseBuffer.swap_and_flatten)

    observations: np.ndarray | dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    returns: np.ndarray
    advantages: np.ndarray
    values: np.ndarray
    log_probs: np.ndarray

    rollout: Rollout
    gamma: float
    gae_lambda: float
    credit: CreditHorizon | None

    def __init__(
        self,
        rollout: Rollout,
        observation_space: Any,
        action_space: Any,
        gamma: float,
        gae_lambda: float,
        credit: CreditHorizon | None = None,
    ):
        vars(self).update(
            rollout=rollout,
            observation_space=observation_space,
            action_space=action_space,
            obs_shape=get_obs_shape(observation_space),
            action_dim=get_action_dim(action_space),
            buffer_size=rollout.n_steps,
            n_envs=rollout.n_envs,
            device=rollout.device,
            gamma=gamma,
            gae_lambda=gae_lambda,
            credit=credit,
        )

    def __getattr__(self, name: str) -> Any:
        if name not in _BLOCKS:
            raise AttributeError(f"rollout_buffer.{name}: MemoryPPO's view has {', '.join(_BLOCKS)}, episode_starts")
        block = getattr(self.rollout, name)
        if isinstance(block, dict):
            return {key: _array(each) for key, each in block.items()}
        return _array(block).reshape(*block.shape[:2], -1) if name == "actions" else _array(block)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _BLOCKS:
            raise AttributeError(f"rollout_buffer.{name}: cannot be set in MemoryPPO's view; see model.rollout")
        block = getattr(self.rollout, name)
        parts = block if isinstance(block, dict) else {"": block}
        for key, part in parts.items():
            source = torch.as_tensor(np.asarray(value[key] if key else value)).reshape(part.shape)
            part[...] = source if isinstance(part, Tensor) else source.numpy()

    @property
    def episode_starts(self) -> np.ndarray:
        """1.0 where an episode begins."""
        return self.rollout.resets.cpu().numpy().astype(np.float32)

    @property
    def pos(self) -> int:
        """Steps stored so far."""
        return self.rollout.pos

    @property
    def full(self) -> bool:
        """Whether all steps are stored."""
        return self.rollout.pos == self.rollout.n_steps

    def size(self) -> int:
        """Returns the steps stored so far."""
        return self.rollout.pos

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Recomputes both after a callback has changed the rewards; `dones` are those of the last step.

        With `gae_lambda="auto"`, lambda is not measured again.
        """
        rollout, last_values = self.rollout, last_values.flatten()
        rollout.ends[-1] = dones
        rollout.compute_advantages(last_values, self.gamma, self.gae_lambda)
        if self.credit is not None:
            decay = self.gamma * self.credit.value.item()
            rollout.advantages.copy_(rollout.decayed_sums(rollout.errors(last_values, self.gamma), decay))


def _array(block: Tensor | np.ndarray) -> np.ndarray:
    return block.cpu().numpy() if isinstance(block, Tensor) else block
