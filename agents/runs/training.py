"""The training loop of every algorithm: runs, signals, resuming, rollbacks, logs and the saved agent."""

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stable_baselines3.common.logger import Logger

from ntm_rl.agents.parallel.joining import remember_run
from ntm_rl.agents.parallel.ranks import SINGLE, Ranks
from ntm_rl.agents.runs.changes import Changes, explain_mismatch, print_changes, refuse_reached_length
from ntm_rl.agents.runs.nonfinite import NonFiniteError, write_nonfinite_report
from ntm_rl.agents.runs.progress import ProgressDisplay
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.runs.trainer import MakeTrainer, Session, Trainer
from ntm_rl.agents.settings.kinds import TrainingKind
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.storage.checkpoints import checkpoint_to_resume
from ntm_rl.agents.tracking.logger import check_logs, make_logger, record_pending
from ntm_rl.agents.tracking.wandb_writer import WandbWriter


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        run: The run's folder.
        kind: Kind of the training, which names its steps and score.
        steps: Environment steps or sequences in total.
        score: Mean return of the last episodes (100 unless the config says otherwise), or bits per sequence of the last
            validation; None without any.
        steps_per_second: Speed of this process.
        stopped_by: The signal that ended the training early, if one did.
    """

    run: Path
    kind: TrainingKind
    steps: int
    score: float | None
    steps_per_second: float
    stopped_by: signal.Signals | None


def start_training(
    make_trainer: MakeTrainer, config: str, *, ranks: Ranks = SINGLE, show_progress: bool = True
) -> TrainingResult:
    """Starts a training in a new run.

    Args:
        make_trainer: Makes the trainer.
        config: Name of the config, under which the run is filed.
        ranks: The ranks of the training; the first one writes the run.
        show_progress: Show a progress bar.

    Raises:
        InputError: the trainer cannot be made, or a folder cannot be written.
        NonFiniteError: a number is not finite, and the settings say to stop.
    """
    trainer = ranks.agree(partial(make_trainer, None))  # before the run's folder, which an error leaves unmade
    with SignalListener() as signals:
        run = ranks.on_first(partial(Run.create, trainer.settings, config))
        with _owned(run, ranks):
            if ranks.is_first:
                remember_run(str(run.path))
            return run_training(trainer, make_trainer, run, signals, ranks=ranks, show_progress=show_progress)


def resume_training(
    make_trainer: MakeTrainer, run: Run, settings: AnySettings, *, ranks: Ranks = SINGLE, show_progress: bool = True
) -> TrainingResult:
    """Resumes a run from its latest usable checkpoint, up to `settings.total_steps`.

    A run that was interrupted before its first checkpoint starts again. Settings that differ from the run's config
    replace it; a resume that is refused changes nothing.

    Args:
        make_trainer: Makes the trainer.
        run: The run to resume.
        settings: Settings of the training.
        ranks: The ranks of the training; the first one writes the run.
        show_progress: Show a progress bar.

    Raises:
        InputError: all checkpoints are damaged, or the latest does not fit the settings; another process trains the
            run; a changed setting can no longer have an effect; or a log is damaged.
        NonFiniteError: a number is not finite, and the settings say to stop.
    """
    changes = ranks.on_first(partial(run.changes, settings))
    with _owned(run, ranks):
        with explain_mismatch(changes):
            trainer = _latest(make_trainer, run, ranks)
        settings = trainer.settings
        changes = ranks.on_first(partial(_checked_changes, run, trainer))
        with SignalListener() as signals:
            ranks.on_first(partial(run.apply, changes, settings, trainer.steps))
            if ranks.is_first:
                print_changes(changes, trainer.steps, settings.total_steps)
            return run_training(trainer, make_trainer, run, signals, ranks=ranks, show_progress=show_progress)


def _checked_changes(run: Run, trainer: Trainer) -> Changes:
    """Returns the changes of the run's config by the trainer's settings, whose sizes are numbers."""
    settings = trainer.settings
    changes = run.changes(settings)
    refuse_reached_length(changes, settings.kind, trainer.steps)
    check_logs(run.path, settings.kind.steps_metric)
    return changes


@contextmanager
def _owned(run: Run, ranks: Ranks) -> Iterator[None]:
    """Makes the first rank the owner of the run."""
    with ExitStack() as stack:
        ranks.on_first(lambda: stack.enter_context(run.owned()))
        yield


def run_training(
    trainer: Trainer,
    make_trainer: MakeTrainer,
    run: Run,
    signals: SignalListener,
    *,
    ranks: Ranks = SINGLE,
    show_progress: bool,
) -> TrainingResult:
    """Trains to the end; after a number that is not finite, rolls back to the last checkpoint if the settings say so.

    Raises:
        NonFiniteError: a number is not finite, and the settings say to stop.
    """
    if ranks.is_first:
        for line in trainer.describe():
            print(line, file=sys.stderr)
    while True:
        try:
            with closing(trainer):
                return _learn(trainer, run, signals, ranks, show_progress)
        except NonFiniteError as error:
            trainer = _roll_back(trainer, error, make_trainer, run, ranks)


def _latest(make_trainer: MakeTrainer, run: Run, ranks: Ranks) -> Trainer:
    checkpoint = ranks.on_first(partial(checkpoint_to_resume, run.checkpoints, run.agent))
    return ranks.agree(partial(make_trainer, checkpoint))


def _roll_back(failed: Trainer, error: NonFiniteError, make_trainer: MakeTrainer, run: Run, ranks: Ranks) -> Trainer:
    """Returns a trainer restored from the last checkpoint; raises the error if the settings say to stop."""
    settings, kind = failed.settings, failed.settings.kind
    report = ranks.on_first(partial(write_nonfinite_report, run.path, error, failed.steps))
    message = f"after {failed.steps:,} {kind.units}: {error}; see {report}"
    rollbacks = failed.rollbacks + 1
    if settings.on_nonfinite == "stop" or rollbacks > settings.max_rollbacks:
        final = NonFiniteError(f"{message}; the last good checkpoint is kept", error.report)
        final.is_reported = not ranks.is_first
        raise final from error
    trainer = _latest(make_trainer, run, ranks)
    trainer.rollbacks = rollbacks
    if ranks.is_first:
        print(f"{message}; back to {kind.unit} {trainer.steps:,}, rollback {rollbacks}", file=sys.stderr)
    return trainer


def _learn(trainer: Trainer, run: Run, signals: SignalListener, ranks: Ranks, show_progress: bool) -> TrainingResult:
    settings, first_step = trainer.settings, trainer.steps
    kind = settings.kind
    with ExitStack() as stack:
        writer = run.track(settings) if ranks.is_first else None
        logger = make_logger(run.path, writer, first_step, kind.steps_metric) if ranks.is_first else Logger(None, [])
        stack.callback(logger.close)
        record_pending(logger, trainer.pending)
        display = None
        if show_progress and ranks.is_first:
            display = stack.enter_context(closing(ProgressDisplay(first_step, settings.total_steps, f"{kind.unit}s")))
        session = Session(run, logger, signals, first_step, display, ranks)
        trainer.learn(session)
        speed = session.steps_per_second(trainer.steps)
        if ranks.is_first:
            trainer.save_agent(run.agent)
        if writer is not None:
            _send_agents(writer, trainer, run)
    return TrainingResult(run.path, kind, trainer.steps, trainer.score, speed, signals.received)


def _send_agents(writer: WandbWriter, trainer: Trainer, run: Run) -> None:
    name, kind = f"agent-{run.path.parent.name}-{run.path.name}", trainer.settings.kind
    writer.log_agent(name, run.agent, ["latest"], {kind.counter: trainer.steps, kind.score: trainer.score})
    if run.best.is_dir():
        writer.log_agent(name, run.best, ["best"], {kind.score: trainer.best_score})
