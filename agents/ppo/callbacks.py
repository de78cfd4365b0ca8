"""Callbacks of a PPO training: checkpoints, the best agent, curricula, progress, and a clean end after a signal."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from ntm_rl.agents.policy.files import save_agent
from ntm_rl.agents.ppo.checkpoints import save_checkpoint
from ntm_rl.agents.ppo.vec_env_state import curricula, ranks_of, reached_level
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.runs.trainer import Session
from ntm_rl.agents.storage.cards import WEIGHTS
from ntm_rl.agents.storage.checkpoints import as_count
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.agents.tracking.logger import pending_metrics


def mean_return(model: BaseAlgorithm) -> float | None:
    """Returns the mean return of a model's last episodes, SB3's `rollout/ep_rew_mean`; None before the first."""
    episodes = model.ep_info_buffer
    return float(np.mean([episode["r"] for episode in episodes])) if episodes else None


class BestAgentCallback(BaseCallback):
    """Saves the agent whenever the mean return over the last episodes exceeds the best so far.

    The mean is SB3's `rollout/ep_rew_mean` over at least `episodes` episodes, evaluated once per rollout; the saved
    weights are those that played the rollout.

    With a curriculum, returns are compared only within a level. After a new level, nothing is saved until all of the
    last episodes were played at it; then the agent replaces the one of a lower level, whatever its return.

    Args:
        folder: Folder of the agent.
        episodes: Number of episodes in the mean.
        extra: JSON values for the card.
        best: The best mean return before the training was resumed. That of the agent in `folder`, which may be newer
            than the checkpoint, counts too.
        best_level: Its level; 0 without a curriculum.
        easier: Number of the model's last episodes that were played at lower levels; they are the oldest.

    Attributes:
        level: The level that the curricula reached in the last rollout; 0 without any.
    """

    def __init__(
        self,
        folder: Path,
        episodes: int,
        extra: Mapping[str, Any] | None = None,
        best: float = -np.inf,
        best_level: int = 0,
        easier: int = 0,
    ):
        super().__init__()
        self.folder, self.episodes, self.extra = folder, episodes, extra
        self.best, self.best_level = best, best_level
        self.level, self._first_easier = 0, easier
        self._newest_easier: Any = None  # the last episode before the current level was reached

    @property
    def easier(self) -> int:
        """Number of the model's last episodes that were played at lower levels."""
        for index, episode in enumerate(self._last_episodes()):
            if episode is self._newest_easier:
                return index + 1
        return 0

    def _on_training_start(self) -> None:
        saved = ranks_of(self.model).on_first(partial(_saved_best, self.folder))
        self.best_level, self.best = max((self.best_level, self.best), saved)
        self.level = reached_level(self.training_env, ranks_of(self.model)) or 0
        easier, self._first_easier = self._last_episodes()[: self._first_easier], 0
        if easier:
            self._newest_easier = easier[-1]

    def _on_rollout_end(self) -> None:
        episodes = self._last_episodes()
        level = reached_level(self.training_env, ranks_of(self.model)) or 0
        if level != self.level:
            self.level, self._newest_easier = level, episodes[-1] if episodes else None
        if len(episodes) < self.episodes or self.easier:
            return
        mean = mean_return(self.model)
        if mean is not None and (level, mean) > (self.best_level, self.best):
            self.best_level, self.best = level, mean
            extra = {**(self.extra or {}), "mean_return": mean, "timesteps": self.model.num_timesteps}
            extra["level"] = level or None
            if ranks_of(self.model).is_first:
                save_agent(self.model.policy, self.folder, self.model.get_vec_normalize_env(), extra)  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True

    def _last_episodes(self) -> list[dict[str, Any]]:
        return list(self.model.ep_info_buffer or ())


class CheckpointCallback(BaseCallback):
    """Writes a checkpoint before a rollout once `every` environment steps have passed, and at the end.

    Args:
        folder: Folder of the checkpoints.
        every: Environment steps between two checkpoints.
        keep: Number of checkpoints to keep.
        best: Callback whose best mean return is saved too, so that a resumed training continues from it.
        extra: JSON values to save with each checkpoint.

    Attributes:
        saved_at: Environment steps at the last checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        best: BestAgentCallback | None = None,
        extra: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.folder, self.every, self.keep, self.best, self.extra = folder, every, keep, best, dict(extra or {})
        self.saved_at = -1
        self._between_rollouts = True

    def save(self) -> None:
        """Writes a checkpoint now; call it only between two rollouts, where the counters agree with the weights."""
        # A signal before the first step needs a checkpoint too: without one, a run that has an agent is not resumed.
        if self.saved_at != self.model.num_timesteps or self.model.num_timesteps == 0:
            extra = dict(self.extra)
            if self.best is not None:
                extra |= {"best_level": self.best.best_level, "easier": self.best.easier}
                extra |= {"best": self.best.best} if np.isfinite(self.best.best) else {}
            extra["pending"] = pending_metrics(self.logger)
            save_checkpoint(self.model, self.folder, keep=self.keep, extra=extra)  # type: ignore[arg-type]
            self.saved_at = self.model.num_timesteps

    def _on_training_start(self) -> None:
        self.saved_at = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps - self.saved_at >= self.every:
            self.save()
        self._between_rollouts = False

    def _on_rollout_end(self) -> None:
        self._between_rollouts = True

    def _on_training_end(self) -> None:
        if self._between_rollouts:  # not if a callback stopped the training within a rollout
            self.save()

    def _on_step(self) -> bool:
        return True


class CurriculumCallback(BaseCallback):
    """Logs the mean level of the environments' curricula as `rollout/level`."""

    def _on_rollout_end(self) -> None:
        own = [each.level for each in curricula(self.training_env)]
        levels = [level for each in ranks_of(self.model).gather_objects(own) for level in each]
        if levels:
            self.logger.record("rollout/level", float(np.mean(levels)))

    def _on_step(self) -> bool:
        return True


class StopOnSignal(BaseCallback):
    """Ends a training on a signal: the current rollout is finished and learned from, then a checkpoint is written.

    Args:
        signals: Records the signal.
        checkpoints: Writes the checkpoint.
    """

    def __init__(self, signals: SignalListener, checkpoints: CheckpointCallback):
        super().__init__()
        self.signals, self.checkpoints = signals, checkpoints
        self._stops = False

    def _on_rollout_start(self) -> None:
        if self.signals.agree(ranks_of(self.model)):
            self.checkpoints.save()
            self._stops = True

    def _on_step(self) -> bool:
        return not self._stops


class PageCallback(BaseCallback):
    """Writes a page after a rollout once a multiple of `every` environment steps is passed.

    Args:
        every: Environment steps between two pages.
        write: Writes the page of a step.
    """

    def __init__(self, every: int, write: Callable[[int], None]):
        super().__init__()
        self.every, self._write = every, write
        self._written_at = 0

    def _on_training_start(self) -> None:
        self._written_at = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        step = self.model.num_timesteps
        if step // self.every > self._written_at // self.every:
            self._write(step)
            self._written_at = step

    def _on_step(self) -> bool:
        return True


class ProgressCallback(BaseCallback):
    """Shows the mean return in a training's progress bar."""

    def __init__(self, session: Session):
        super().__init__()
        self._session = session

    def _on_rollout_end(self) -> None:
        mean = mean_return(self.model)
        self._session.show_progress(
            self.model.num_timesteps, "no episode yet" if mean is None else f"return {mean:.3f}"
        )

    def _on_step(self) -> bool:
        return True


def _saved_best(folder: Path) -> tuple[int, float]:
    """Returns level and mean return of the agent in a folder; 0 and minus infinity without a readable one."""
    try:
        extra = read_tensors(folder / WEIGHTS)[1]["extra"]
        return as_count(extra.get("level") or 0), float(extra["mean_return"])
    except (StorageError, KeyError, TypeError, ValueError, AttributeError):
        return 0, -np.inf
