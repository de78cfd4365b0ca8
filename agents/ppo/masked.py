"""Action masks in sb3-contrib's recurrent PPO, which has none."""

import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.model_files import FiledRecurrentPPO
from ntm_rl.agents.ppo.schedules import DEFAULT_LEARNING_RATE
from ntm_rl.envs.factory import UseMasks
from ntm_rl.envs.sb3.action_masks import ActionMaskReader
from ntm_rl.envs.wrappers.action_masks import Masks


class MaskedRecurrentPPO(FiledRecurrentPPO):
    """Reads the masks of the environments for `collect_rollouts`, and takes masks in `predict`.

    Attributes:
        action_masks: Whether to use masks; "auto": if the environments have some.
    """

    policy: MlpNtmPolicy
    action_masks: UseMasks
    _mask_reader: ActionMaskReader
    _masks: Masks | None = None  # of the next step, `[E, n]`
    _warned: frozenset[str] = frozenset()

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """See `MlpNtmPolicy.predict`; warns once if masks are missing though the training uses or requires them."""
        if action_masks is None and (self.action_masks is True or self._masks is not None):
            self._warn_once("predict without action_masks may return actions that the environment excludes")
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def _warn_of_decay(self, total_timesteps: float) -> None:
        """Warns if `learn` continues a training at whose end the default learning rate was to be 0."""
        # A loaded model has a copy of the schedule.
        is_default = repr(self.learning_rate) == repr(DEFAULT_LEARNING_RATE)
        if is_default and 0 < self._total_timesteps < self.num_timesteps + total_timesteps:
            self._warn_once(
                "the default learning rate decays to 0 over all steps since num_timesteps = 0, so that repeated calls "
                "of learn with reset_num_timesteps=False train at ever lower rates; pass a constant one, such as "
                "learning_rate=3e-4, or call learn once",
                stacklevel=4,
            )

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        is_reset = reset_num_timesteps or self._last_obs is None
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert self.env is not None
        self._mask_reader = ActionMaskReader(self.env, self.action_masks)
        self._masks = self._mask_reader.reset() if is_reset else self._mask_reader.resume(self._masks)
        if self.action_masks == "auto" and self._masks is not None:
            self._warn_once(
                "the environment's action masks are used; action_masks=True requires them without this warning, and "
                "action_masks=False ignores them"
            )
        return result

    def _warn_once(self, message: str, stacklevel: int = 3) -> None:
        if message not in self._warned:
            self._warned |= {message}
            warnings.warn(message, stacklevel=stacklevel)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_mask_reader", "_masks", "_warned"]
