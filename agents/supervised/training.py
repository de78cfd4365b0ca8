"""Supervised training on algorithmic tasks: binary cross-entropy on the masked steps, counted in bits per sequence."""

import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger

from ntm_rl.agents.policy.network_files import save_network
from ntm_rl.agents.runs.changes import explained, refuse_reached, tell_changes
from ntm_rl.agents.runs.nonfinite import NonFiniteError, write_report
from ntm_rl.agents.runs.progress import ProgressDisplay
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.storage.checkpoints import can_go_on, has_checkpoints, latest_checkpoint
from ntm_rl.agents.supervised.scores import label
from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.agents.tracking.logger import make_logger, pending_metrics, record_pending

SEQUENCES = "time/total_sequences"
LONGER_EVERY = 10  # validations: longer sequences cost many times as much


@dataclass(frozen=True)
class SupervisedResult:
    """What came of a supervised training.

    Attributes:
        run: Its folder.
        bits_per_sequence: Of the last validation, None without any.
        sequences: Sequences in all.
        sequences_per_second: Of this process.
        stopped_by: The signal that ended it early, if one did.
    """

    run: Path
    bits_per_sequence: float | None
    sequences: int
    sequences_per_second: float
    stopped_by: signal.Signals | None


def train_supervised(
    settings: SupervisedTrainingSettings, config: str, *, show_progress: bool = True
) -> SupervisedResult:
    """Trains a new network into a new run directory; arguments and errors as `training.train`."""
    trainer = SupervisedTrainer(settings)  # before the folder: what fails here leaves nothing behind
    with SignalListener():  # from here on a signal ends the training with a checkpoint
        run = Run.create(settings, config)
        with run.owned():
            return _learn_guarded(trainer, run, show_progress, {})


def resume_supervised(
    run: Run, settings: SupervisedTrainingSettings, *, show_progress: bool = True
) -> SupervisedResult:
    """Goes on with a run from its latest usable checkpoint, up to `settings.total_sequences`.

    Raises:
        InputError: as `training.resume`.
    """
    changed = run.changes(settings)
    with run.owned():
        with explained(changed):
            trainer = SupervisedTrainer(settings)
            # A run that was interrupted before its first checkpoint begins anew.
            goes_on = can_go_on(run.checkpoints, run.agent)
            pending = trainer.load(latest_checkpoint(run.checkpoints)) if goes_on else {}
        refuse_reached(changed, trainer.sequences)
        with SignalListener():
            run.change(settings, changed, trainer.sequences)
            tell_changes(changed, trainer.sequences, settings.total_sequences)
            return _learn_guarded(trainer, run, show_progress, pending)


def _learn_guarded(
    trainer: SupervisedTrainer, run: Run, show_progress: bool, pending: Mapping[str, Any]
) -> SupervisedResult:
    """Trains on, and where numbers are not finite goes back to the last checkpoint if the settings say so."""
    settings = trainer.settings
    while True:
        try:
            return _learn(trainer, run, show_progress, pending)
        except NonFiniteError as error:
            report = write_report(run.path, error, trainer.sequences)
            rollbacks = trainer.rollbacks + 1
            if settings.on_nonfinite == "stop" or rollbacks > settings.max_rollbacks:
                raise NonFiniteError(f"{error}; see {report}", error.report) from error
            trainer = SupervisedTrainer(settings)
            pending = trainer.load(latest_checkpoint(run.checkpoints)) if has_checkpoints(run.checkpoints) else {}
            trainer.rollbacks = rollbacks
            what = f"back to sequence {trainer.sequences:,}, rollback {rollbacks}"
            print(f"{error}; see {report}; {what}", file=sys.stderr)


def _learn(trainer: SupervisedTrainer, run: Run, show_progress: bool, pending: Mapping[str, Any]) -> SupervisedResult:
    settings = trainer.settings
    first, began = trainer.sequences, time.monotonic()
    with ExitStack() as stack:
        stop = stack.enter_context(SignalListener())
        writer = run.track(settings, SEQUENCES)
        logger = make_logger(run.path, writer, first, SEQUENCES)
        stack.callback(logger.close)
        record_pending(logger, pending)
        display = None
        if show_progress:
            display = ProgressDisplay(first, settings.total_sequences, "sequences")
            stack.callback(display.close)
        while trainer.sequences < settings.total_sequences and stop.received is None:
            is_whole = _learn_a_while(trainer, run, logger, display, stop)
            if stop.received is not None and not is_whole:  # the row goes on where the training does
                break
            _record_means(trainer, logger)
            logger.record("time/sequences_per_second", (trainer.sequences - first) / (time.monotonic() - began))
            logger.record(SEQUENCES, trainer.sequences)
            logger.dump(trainer.sequences)
            if _passes(trainer.sequences - settings.batch_size, trainer.sequences, settings.checkpoint.every):
                trainer.save(run.checkpoints)
        trainer.save(run.checkpoints, pending_metrics(logger))
        seconds = time.monotonic() - began
        save_network(trainer.averaged, run.agent, trainer.card())
        if writer is not None:
            name = f"agent-{run.path.parent.name}-{run.path.name}"
            writer.log_agent(name, run.agent, ["latest"], {"sequences": trainer.sequences})
    speed = (trainer.sequences - first) / max(seconds, 1e-9)
    return SupervisedResult(run.path, trainer.last, trainer.sequences, speed, stop.received)


def _learn_a_while(
    trainer: SupervisedTrainer, run: Run, logger: Logger, display: ProgressDisplay | None, stop: SignalListener
) -> bool:
    """Learns until the next row of metrics is due, which is what it returns, or the training ends."""
    settings, is_due = trainer.settings, False
    while stop.received is None and trainer.sequences < settings.total_sequences:
        before = trainer.sequences
        trainer.sums = [total + float(each) for total, each in zip(trainer.sums, trainer.update(), strict=True)]
        trainer.updates += 1
        if _passes(before, trainer.sequences, settings.validation.every):
            _validate(trainer, logger, run)
        is_due = _passes(before, trainer.sequences, settings.log_every)
        if _passes(before, trainer.sequences, settings.checkpoint.every) and not is_due:
            trainer.save(run.checkpoints, pending_metrics(logger))
        if is_due:
            break
    if display is not None:
        display.update(trainer.sequences, f"{trainer.sums[0] / max(trainer.updates, 1):.3f} bits per sequence")
    return is_due


def _record_means(trainer: SupervisedTrainer, logger: Logger) -> None:
    """Records the means over the updates since the last row of metrics, and begins the next."""
    names = ("train/bits_per_sequence", "train/wrong_bits", "train/gradient_norm")
    for name, total in zip(names, trainer.sums, strict=True):
        logger.record(name, total / max(trainer.updates, 1))
    trainer.sums, trainer.updates = [0.0, 0.0, 0.0], 0
    logger.record("train/learning_rate", trainer.optimizer.param_groups[0]["lr"])
    logger.record("train/level", trainer.curriculum.level)


def _validate(trainer: SupervisedTrainer, logger: Logger, run: Run) -> None:
    validation = trainer.settings.validation
    result = trainer.validate()
    trainer.last = result.bits
    logger.record("validation/bits_per_sequence", result.bits)
    logger.record("validation/wrong_bits", result.wrong)
    if result.floor:
        logger.record("validation/bits_above_optimum", result.bits - result.floor)
    if result.bits < trainer.best:
        trainer.best = result.bits
        save_network(trainer.averaged, run.best, {**trainer.card(), "bits": result.bits})
    if trainer.sequences // validation.every % LONGER_EVERY == 0:
        for difficulty in validation.longer:
            longer, name = trainer.validate(difficulty), label(difficulty)
            logger.record(f"validation/{name}/bits_per_sequence", longer.bits)
            logger.record(f"validation/{name}/wrong_bits", longer.wrong)


def _passes(before: int, after: int, every: int) -> bool:
    """Whether a count passed a multiple of `every`."""
    return before // every != after // every
