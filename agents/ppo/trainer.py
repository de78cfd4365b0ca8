"""The PPO trainer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.parallel.joining import join
from ntm_rl.agents.parallel.ranks import Ranks
from ntm_rl.agents.policy.description import describe
from ntm_rl.agents.policy.files import save_agent
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.ppo.callbacks import (
    BestAgentCallback,
    CheckpointCallback,
    CurriculumCallback,
    PageCallback,
    ProgressCallback,
    StopOnSignal,
    mean_return,
)
from ntm_rl.agents.ppo.checkpoints import load_checkpoint
from ntm_rl.agents.ppo.making import has_auto_sizes, make_model, with_masks, with_sizes
from ntm_rl.agents.ppo.probe import probe_agent, probe_environment
from ntm_rl.agents.ppo.vec_env_state import reached_level
from ntm_rl.agents.ppo.warm_start import warm_start
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.trainer import Session, WritePage
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.storage.checkpoints import as_count
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.tracking.logger import PendingMetrics, parse_pending
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError


@dataclass(frozen=True)
class SavedProgress:
    """The values that a checkpoint has besides the model: arguments of `BestAgentCallback` and fields of `Trainer`."""

    rollbacks: int = 0
    best: float = -np.inf
    best_level: int = 0
    easier: int = 0
    pending: PendingMetrics = field(default_factory=dict)

    @classmethod
    def parse(cls, extra: Mapping[str, Any]) -> Self:
        """Checks the `extra` values of a checkpoint.

        Raises:
            ValueError: a value is damaged.
        """
        best = extra.get("best", -np.inf)
        if not isinstance(best, (int, float)):
            raise ValueError(f"best = {best!r} is not a number")
        counts = {key: as_count(extra.get(key, 0)) for key in ("rollbacks", "best_level", "easier")}
        return cls(best=best, pending=parse_pending(extra.get("pending", {})), **counts)


class PpoTrainer:
    """Trains an agent by PPO; see `Trainer`.

    Args:
        settings: Settings of the training.
        checkpoint: The checkpoint to resume from; None: a new training, for which environment and agent are tried.
        write_page: Writes the pages of `watch.every`.

    Raises:
        InputError: the environment or the policy cannot be made or fails.
        StorageError: the checkpoint is damaged or does not fit.
    """

    def __init__(
        self, settings: PpoTrainingSettings, checkpoint: Path | None = None, write_page: WritePage | None = None
    ):
        ranks = join()
        if checkpoint is None or has_auto_sizes(settings):
            probe = probe_environment(settings.env_settings, settings.seed)
            settings = with_masks(with_sizes(settings, probe.episode_limit, ranks.size), probe.has_masks)
        self.settings, self._write_page = settings, write_page
        if checkpoint is None:
            self.model, self._saved = _new_model(settings, ranks), SavedProgress()
        else:
            self.model, self._saved = _resumed_model(settings, checkpoint, ranks)
        self.rollbacks = self._saved.rollbacks
        self.best_score: float | None = self._saved.best
        env = self.model.get_env()
        assert env is not None
        self._env = env

    @property
    def steps(self) -> int:
        """See `Trainer.steps`."""
        return self.model.num_timesteps

    @property
    def pending(self) -> PendingMetrics:
        """See `Trainer.pending`."""
        return self._saved.pending

    @property
    def score(self) -> float | None:
        """See `Trainer.score`."""
        return mean_return(self.model)

    def describe(self) -> list[str]:
        """See `Trainer.describe`."""
        summary, *warnings = describe(self.model.policy, self._env, self.settings.env_settings)
        return [f"{summary} | {self._describe_sizes()}", *warnings]

    def learn(self, session: Session) -> None:
        """See `Trainer.learn`."""
        model, remaining = self.model, self.settings.total_timesteps - self.model.num_timesteps
        model.set_logger(session.logger)
        if remaining <= 0:
            return
        if self.rollbacks:
            schedule, factor = model.lr_schedule, 0.5**self.rollbacks
            model.lr_schedule = lambda progress: schedule(progress) * factor
        best, checkpoints, callbacks = self._callbacks(session)
        model.learn(remaining, callbacks, reset_num_timesteps=False)
        # A signal ends the training in the first step of the next rollout, which does not count.
        model.num_timesteps = checkpoints.saved_at
        self.best_score = best.best

    def save_agent(self, folder: Path) -> None:
        """See `Trainer.save_agent`."""
        extra = {**self._card(), "timesteps": self.steps, "level": reached_level(self._env)}
        save_agent(self.model.policy, folder, self.model.get_vec_normalize_env(), extra)

    def close(self) -> None:
        """See `Trainer.close`."""
        self._env.close()

    def _describe_sizes(self) -> str:
        model, steps = self.model, self.settings.total_timesteps
        rollout = model.n_steps * model.all_envs
        sizes = f"n_steps {model.n_steps}, sequence_length {model.rollout.sequence_length}"
        whole = math.ceil(steps / rollout) * rollout
        rounded = f", rounded up to {whole:,}: whole rollouts of {rollout:,}" if whole > steps else ""
        return f"{sizes}, batch_size {model.batch_size} | {steps:,} steps{rounded}"

    def _card(self) -> dict[str, Any]:
        settings = self.settings
        return {"env": settings.env.id, "core": settings.core, "seed": settings.seed}

    def _callbacks(self, session: Session) -> tuple[BestAgentCallback, CheckpointCallback, list[BaseCallback]]:
        settings, run, saved = self.settings, session.run, self._saved
        best = BestAgentCallback(
            run.best, settings.ppo.stats_window_size, self._card(), saved.best, saved.best_level, saved.easier
        )
        checkpoints = CheckpointCallback(
            run.checkpoints, settings.checkpoint.every, settings.checkpoint.keep, best, {"rollbacks": self.rollbacks}
        )
        stop = StopOnSignal(session.signals, checkpoints)
        callbacks = [checkpoints, best, stop, CurriculumCallback(), ProgressCallback(session)]
        every, write_page = settings.watch.every, self._write_page
        if every is not None and write_page is not None and session.ranks.is_first:
            callbacks.append(PageCallback(every, lambda step: write_page(session, step, self.save_agent)))
        return best, checkpoints, callbacks


def _make_env(settings: PpoTrainingSettings, ranks: Ranks) -> VecEnv:
    """Makes this rank's share of the environments."""
    assert isinstance(settings.n_envs, int)
    if settings.n_envs % ranks.size:
        raise InputError(f"n_envs = {settings.n_envs}: must be a multiple of the number of processes, {ranks.size}")
    return make_vec_env(settings.env_settings, settings.n_envs // ranks.size, settings.seed, gamma=settings.ppo.gamma)


def _new_model(settings: PpoTrainingSettings, ranks: Ranks) -> MemoryPPO:
    model = make_model(settings, _make_env(settings, ranks))
    probe_agent(model, settings.env.id)
    if settings.policy.init_from is not None:
        warm_start(model.policy, Run.open(settings.policy.init_from))
    return model


def _resumed_model(settings: PpoTrainingSettings, checkpoint: Path, ranks: Ranks) -> tuple[MemoryPPO, SavedProgress]:
    model = make_model(settings, _make_env(settings, ranks))
    extra = load_checkpoint(checkpoint, model)
    try:
        return model, SavedProgress.parse(extra)
    except ValueError as error:
        raise StorageError(f"{checkpoint}: its extra values are damaged: {error}") from error
