"""Trains an agent as the settings say, or goes on with a training that was interrupted."""

import signal
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from ntm_rl.agents.policy.description import SuspiciousSpaces, describe
from ntm_rl.agents.policy.files import save_agent
from ntm_rl.agents.policy.policies import FAST_ADAM, policy_class_for
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.ppo.callbacks import (
    BestAgentCallback,
    CheckpointCallback,
    CurriculumCallback,
    ProgressCallback,
    StopOnSignal,
)
from ntm_rl.agents.ppo.checkpoints import load_checkpoint
from ntm_rl.agents.ppo.probe import probe_agent, probe_environment
from ntm_rl.agents.ppo.vec_env_state import reached_level
from ntm_rl.agents.ppo.warm_start import warm_start
from ntm_rl.agents.runs.changes import explained, refuse_reached, tell_changes
from ntm_rl.agents.runs.nonfinite import NonFiniteError, write_report
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.settings.paths import user_path
from ntm_rl.agents.settings.schema import PolicySettings, PpoTrainingSettings
from ntm_rl.agents.storage.checkpoints import can_go_on, count, latest_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.tracking.logger import make_logger, record_pending
from ntm_rl.agents.tracking.wandb_writer import WandbWriter
from ntm_rl.envs.modules import folder_of
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.envs.wrappers.images import is_image
from ntm_rl.errors import InputError


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        run: Its folder.
        mean_return: Over the last episodes of the training (100 unless the config says otherwise), None without any.
        timesteps: Environment steps in all.
        steps_per_second: Of this process.
        stopped_by: The signal that ended it early, if one did.
    """

    run: Path
    mean_return: float | None
    timesteps: int
    steps_per_second: float
    stopped_by: signal.Signals | None


def train(settings: PpoTrainingSettings, config: str, *, show_progress: bool = True) -> TrainResult:
    """Trains a new agent into a new run directory.

    Args:
        settings: What to train.
        config: Name of the config, under which the run is filed.
        show_progress: Show a progress bar.

    Raises:
        InputError: an environment that cannot be made, or a folder that cannot be written.
    """
    settings = with_module_path(settings)
    model = _new_model(settings)  # before the folder: what fails here leaves nothing behind
    with SignalListener():  # from here on a signal ends the training with a checkpoint
        run = Run.create(settings, config)
        with run.owned():
            return _learn_guarded(settings, run, model, show_progress, {})


def with_module_path(settings: PpoTrainingSettings) -> PpoTrainingSettings:
    """Returns settings that say, absolutely, where the module of `env.id = module:id` lies, if it is not installed."""
    path = settings.env.path
    path = folder_of(settings.env.id) if path is None else str(user_path("env.path", path).absolute())
    return settings.model_copy(update={"env": settings.env.model_copy(update={"path": path})})


def resume(run: Run, settings: PpoTrainingSettings, *, show_progress: bool = True) -> TrainResult:
    """Goes on with a run from its latest usable checkpoint, up to `settings.total_timesteps`.

    A run that was interrupted before its first checkpoint begins anew. What differs from the run's config becomes its
    config once everything is checked.

    Raises:
        InputError: all checkpoints are damaged, or the latest does not fit the settings; another process trains the
            run; or a setting differs that could have no effect any more.
    """
    if settings.env.path is not None:  # it may be given anew, relative to the current folder
        settings = with_module_path(settings)
    changed = run.changes(settings)
    with run.owned():
        with explained(changed):
            model, saved = _last_state(settings, run)
        refuse_reached(changed, model.num_timesteps)
        with SignalListener():
            run.change(settings, changed, model.num_timesteps)
            tell_changes(changed, model.num_timesteps, settings.total_timesteps)
            return _learn_guarded(settings, run, model, show_progress, saved)


def _learn_guarded(
    settings: PpoTrainingSettings, run: Run, model: MemoryPPO, show_progress: bool, saved: Mapping[str, Any]
) -> TrainResult:
    """Trains on, and where numbers are not finite goes back to the last checkpoint if the settings say so."""
    env = model.get_env()
    assert env is not None
    print("\n".join(describe(model.policy, env, settings.env_settings)), file=sys.stderr)
    while True:
        try:
            return _learn(settings, run, model, show_progress, saved)
        except NonFiniteError as error:
            report = write_report(run.path, error, model.num_timesteps)
            rollbacks = saved.get("rollbacks", 0) + 1
            what = f"after {model.num_timesteps:,} environment steps {error}; see {report}"
            if settings.on_nonfinite == "stop" or rollbacks > settings.max_rollbacks:
                raise NonFiniteError(f"{what}; the last good checkpoint is kept", error.report) from error
            model, saved = _last_state(settings, run)
            saved = {**saved, "rollbacks": rollbacks}
            print(f"{what}; back to step {model.num_timesteps:,}, rollback {rollbacks}", file=sys.stderr)


def _last_state(settings: PpoTrainingSettings, run: Run) -> tuple[MemoryPPO, dict[str, Any]]:
    """Returns the model of a run's latest checkpoint and what was saved beside it; a new one where there is none."""
    if not can_go_on(run.checkpoints, run.agent):
        return _new_model(settings), {}
    checkpoint = latest_checkpoint(run.checkpoints)
    model = make_model(settings, _make_env(settings))
    extra = load_checkpoint(checkpoint, model)
    try:
        float(extra.get("best", 0)), [count(extra.get(key, 0)) for key in ("rollbacks", "best_level", "easier")]
        record_pending(Logger(None, []), extra.get("pending", {}))
    except (TypeError, ValueError, AttributeError) as error:  # whatever hostile values make the parsers raise
        raise StorageError(f"{checkpoint}: its extra values are damaged: {error}") from error
    return model, extra


def _make_env(settings: PpoTrainingSettings) -> VecEnv:
    return make_vec_env(settings.env_settings, settings.n_envs, settings.seed, gamma=settings.ppo.gamma)


def _new_model(settings: PpoTrainingSettings) -> MemoryPPO:
    probe_environment(settings.env_settings, settings.seed)
    model = make_model(settings, _make_env(settings))
    probe_agent(model, settings.env.id)
    if settings.policy.init_from is not None:
        warm_start(model.policy, Run.open(settings.policy.init_from))
    return model


def make_model(settings: PpoTrainingSettings, env: VecEnv) -> MemoryPPO:
    """Builds the algorithm and its policy for an environment."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    options = settings.ppo.model_dump()
    if options["use_sde"] and not isinstance(env.action_space, spaces.Box):
        raise InputError(
            f"ppo.use_sde = True: state-dependent exploration is for Box actions; those of {settings.env.id} are "
            f"{env.action_space}"
        )
    if options.pop("learning_rate_schedule") == "linear":
        options["learning_rate"] = LinearSchedule(options["learning_rate"], 0.0, 1.0)
    optimizer = {**FAST_ADAM, "eps": options.pop("adam_epsilon")}
    seeing = _seeing(settings.policy, env.observation_space)
    policy_kwargs = {
        "features_extractor_kwargs": seeing,
        "core": settings.core,
        "core_kwargs": settings.core_kwargs,
        "critic": settings.policy.critic,
        "net_arch": settings.policy.net_arch.model_dump(),
        "activation_fn": getattr(nn, settings.policy.activation),
        "ortho_init": settings.policy.ortho_init,
        "optimizer_kwargs": optimizer,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousSpaces)  # `describe` says it where a training begins
        return MemoryPPO(
            policy_class_for(env.observation_space),
            env,
            policy_kwargs=policy_kwargs,
            seed=settings.seed,
            device=settings.device,
            **options,
        )


def _seeing(settings: PolicySettings, space: spaces.Space[Any]) -> dict[str, Any]:
    """Returns the options of what reads images, none where there is none."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    if any(map(is_image, parts)):
        return {"architecture": settings.extractor, "precision": settings.precision}
    if settings.extractor == "impala" or settings.precision != "auto":
        raise InputError(
            f"policy.extractor = {settings.extractor!r}, policy.precision = {settings.precision!r}: no observation is "
            f"an image, but {space}; use auto for both"
        )
    return {}


def _learn(
    settings: PpoTrainingSettings, run: Run, model: MemoryPPO, show_progress: bool, saved: Mapping[str, Any]
) -> TrainResult:
    """Trains on from what a checkpoint saved beside the model, nothing in a new training."""
    rollbacks = saved.get("rollbacks", 0)
    if rollbacks:
        schedule = model.lr_schedule
        model.lr_schedule = lambda progress: schedule(progress) * 0.5**rollbacks
    card = {"env": settings.env.id, "core": settings.core, "seed": settings.seed}
    record = saved.get("best", -np.inf), saved.get("best_level", 0), saved.get("easier", 0)
    best = BestAgentCallback(run.best, settings.ppo.stats_window_size, card, *record)
    checkpoints = CheckpointCallback(
        run.checkpoints, settings.checkpoint.every, settings.checkpoint.keep, best, {"rollbacks": rollbacks}
    )
    stop = StopOnSignal(checkpoints)
    callbacks: list[BaseCallback] = [checkpoints, best, stop, CurriculumCallback()]
    first, began = model.num_timesteps, time.monotonic()
    with ExitStack() as stack:
        stack.callback(model.get_env().close)  # type: ignore[union-attr]
        stack.enter_context(stop)
        writer = run.track(settings)
        logger = make_logger(run.path, writer, first)
        stack.callback(logger.close)
        model.set_logger(logger)
        record_pending(logger, saved.get("pending", {}))
        if show_progress:
            progress = ProgressCallback()
            stack.callback(progress.close)
            callbacks.append(progress)
        level = reached_level(model.get_env())  # type: ignore[arg-type]
        remaining = settings.total_timesteps - first
        if remaining > 0:
            model.learn(remaining, CallbackList(callbacks), reset_num_timesteps=False)
            if stop.received is None:
                checkpoints.save()
        seconds = time.monotonic() - began
        returns = [episode["r"] for episode in model.ep_info_buffer or ()]
        mean = float(np.mean(returns)) if returns else None
        timesteps = model.num_timesteps if stop.received is None else checkpoints.saved_at
        extra = {**card, "timesteps": timesteps, "level": best.level or level}
        save_agent(model.policy, run.agent, model.get_vec_normalize_env(), extra)
        if writer is not None:
            _send_agents(writer, run, timesteps, mean, best.best)
    return TrainResult(run.path, mean, timesteps, (timesteps - first) / max(seconds, 1e-9), stop.received)


def _send_agents(writer: WandbWriter, run: Run, timesteps: int, mean: float | None, best: float) -> None:
    name = f"agent-{run.path.parent.name}-{run.path.name}"
    writer.log_agent(name, run.agent, ["latest"], {"timesteps": timesteps, "mean_return": mean})
    if run.best.is_dir():
        writer.log_agent(name, run.best, ["best"], {"mean_return": best})
