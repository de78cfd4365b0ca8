"""Action masks in sb3-contrib's recurrent PPO, which has none."""

import warnings
from typing import Any

import numpy as np
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback

from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.envs.factory import UseMasks
from ntm_rl.envs.sb3.action_masks import ActionMaskReader
from ntm_rl.envs.wrappers.action_masks import Masks


class MaskedRecurrentPPO(RecurrentPPO):
    """Reads the masks of the environments for `collect_rollouts`, and takes masks in `predict`.

    Attributes:
        action_masks: Whether to use masks; "auto": if the environments have some.
    """

    policy: MlpNtmPolicy
    action_masks: UseMasks
    _mask_reader: ActionMaskReader
    _masks: Masks | None = None  # of the next step, `[E, n]`
    _has_warned = False

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """See `MlpNtmPolicy.predict`."""
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        before = self._last_obs
        result = super()._setup_learn(*args, **kwargs)
        assert self.env is not None
        self._mask_reader = ActionMaskReader(self.env, self.action_masks)
        is_reset = self._last_obs is not before
        self._masks = self._mask_reader.reset() if is_reset else self._mask_reader.resume(self._masks)
        if self.action_masks == "auto" and self._masks is not None and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "the environment's action masks are used; say so with action_masks=True, or ignore them with "
                "action_masks=False",
                stacklevel=4,  # the line that calls `learn`
            )
        return result

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_mask_reader", "_masks", "_has_warned"]
