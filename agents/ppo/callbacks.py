"""Callbacks that keep a training's results: checkpoints, the best agent, and a clean end on a signal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from ntm_rl.agents.policy.files import save_agent
from ntm_rl.agents.ppo.checkpoints import save_checkpoint
from ntm_rl.agents.ppo.vec_env_state import curricula, reached_level
from ntm_rl.agents.runs.progress import ProgressDisplay
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.storage.cards import WEIGHTS
from ntm_rl.agents.storage.checkpoints import count
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.agents.tracking.logger import pending_metrics


class BestAgentCallback(BaseCallback):
    """Saves the agent whenever the mean return over the last episodes reaches a new height.

    The mean is SB3's `rollout/ep_rew_mean`, over at least `episodes` episodes, looked at once a rollout; the weights
    saved are those that played that rollout.

    Where a curriculum makes the environments harder, returns are compared within a level alone. After a level is
    reached, nothing is saved until all of the last episodes were played at it; then the agent replaces that of a lower
    level, whatever its return.

    Args:
        folder: Where the agent goes.
        episodes: Episodes to average over.
        extra: JSON values for the card.
        best: The height that an earlier part of the training reached; that of an agent already in `folder` counts too,
            which may have been saved after the checkpoint from which a training goes on.
        best_level: The level at which it did; 0 without a curriculum.
        easier: How many of the model's last episodes are of lower levels than the present one; they are the oldest.

    Attributes:
        level: That the environments' curricula reached in the last rollout; 0 without any.
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
        self._newest_easier: Any = None  # the last episode before the present level was reached

    @property
    def easier(self) -> int:
        """How many of the model's last episodes are of lower levels than the present one."""
        places = [place for place, episode in enumerate(self._last_episodes()) if episode is self._newest_easier]
        return places[0] + 1 if places else 0

    def _on_training_start(self) -> None:
        self.best_level, self.best = max((self.best_level, self.best), _saved_best(self.folder))
        self.level = reached_level(self.training_env) or 0
        easier, self._first_easier = self._last_episodes()[: self._first_easier], 0
        if easier:
            self._newest_easier = easier[-1]

    def _on_rollout_end(self) -> None:
        episodes = self._last_episodes()
        level = reached_level(self.training_env) or 0
        if level != self.level:
            self.level, self._newest_easier = level, episodes[-1] if episodes else None
        if len(episodes) < self.episodes or self.easier:
            return
        mean = float(np.mean([episode["r"] for episode in episodes]))
        if (level, mean) > (self.best_level, self.best):
            self.best_level, self.best = level, mean
            extra = {**(self.extra or {}), "mean_return": mean, "timesteps": self.model.num_timesteps}
            extra["level"] = level or None
            save_agent(self.model.policy, self.folder, self.model.get_vec_normalize_env(), extra)  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return True

    def _last_episodes(self) -> list[dict[str, Any]]:
        return list(self.model.ep_info_buffer or ())


class CheckpointCallback(BaseCallback):
    """Writes a checkpoint between two rollouts whenever `every` environment steps have passed, and at the end.

    Args:
        folder: Where checkpoints go.
        every: Environment steps between two checkpoints.
        keep: Checkpoints to keep.
        best: Whose best mean return is kept with each, so that a resumed training does not start it anew.
        extra: JSON values to keep with each.

    Attributes:
        saved_at: Environment steps of the last checkpoint.
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
        """Writes a checkpoint now; between two rollouts only, where the counters agree with the weights."""
        if self.saved_at != self.model.num_timesteps:
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
        if self._between_rollouts:  # not if a callback stopped inside of one
            self.save()

    def _on_step(self) -> bool:
        return True


class CurriculumCallback(BaseCallback):
    """Logs how far the environments' curricula have come, as `rollout/level`."""

    def _on_rollout_end(self) -> None:
        levels = [each.level for each in curricula(self.training_env)]
        if levels:
            self.logger.record("rollout/level", float(np.mean(levels)))

    def _on_step(self) -> bool:
        return True


class StopOnSignal(SignalListener, BaseCallback):
    """Ends a training cleanly on a signal: the rollout under way is finished and learnt from, then saved."""

    def __init__(self, checkpoints: CheckpointCallback):
        SignalListener.__init__(self)
        BaseCallback.__init__(self)
        self.checkpoints = checkpoints
        self._stops = False

    def _on_rollout_start(self) -> None:
        if self.received is not None:
            self.checkpoints.save()
            self._stops = True

    def _on_step(self) -> bool:
        return not self._stops


def _saved_best(folder: Path) -> tuple[int, float]:
    """Level and mean return of the agent that lies in a folder, below all others if there is none that can be read."""
    try:
        extra = read_tensors(folder / WEIGHTS)[1]["extra"]
        return count(extra.get("level") or 0), float(extra["mean_return"])
    except (StorageError, KeyError, TypeError, ValueError, AttributeError):
        return 0, -np.inf


class ProgressCallback(BaseCallback):
    """Shows the mean return of a training by SB3's callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self._display: ProgressDisplay | None = None

    def _on_training_start(self) -> None:
        self._display = ProgressDisplay(self.model.num_timesteps, self.model._total_timesteps, "steps")

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer or ()
        mean = f"return {np.mean([episode['r'] for episode in episodes]):.3f}" if episodes else "no episode yet"
        if self._display is not None:
            self._display.update(self.model.num_timesteps, mean)

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away; harmless where there is none."""
        if self._display is not None:
            self._display.close()

    def _on_step(self) -> bool:
        return True
