"""Supervised training on algorithmic tasks: binary cross-entropy on the masked steps, counted in bits per sequence."""

import math
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import get_device
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ntm_rl.agents.checkpoints import (
    can_go_on,
    count,
    has_checkpoints,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from ntm_rl.agents.network import SequenceNetwork, save_network
from ntm_rl.agents.nonfinite import NonFiniteError, bad_gradients, write_report
from ntm_rl.agents.optimizers import make_optimizer
from ntm_rl.agents.progress import ProgressDisplay
from ntm_rl.agents.random_states import restore_random_states
from ntm_rl.agents.run_changes import explained, refuse_reached, tell_changes
from ntm_rl.agents.runs import Run
from ntm_rl.agents.schema import SupervisedSettings
from ntm_rl.agents.sequence_scores import Score, bits_of, label, score, tensor_on
from ntm_rl.agents.signals import SignalListener
from ntm_rl.agents.storage import StorageError, put_weights, require_matching
from ntm_rl.agents.tracking import make_logger, pending_metrics, record_pending
from ntm_rl.envs.algorithmic.curriculum import Curriculum
from ntm_rl.envs.algorithmic.task import Difficulty
from ntm_rl.envs.state import generator_of, generator_state
from ntm_rl.ntm import Ntm

SEQUENCES = "time/total_sequences"
KIND = "supervised checkpoint"
MAX_OVERFLOWS = 20
LONGER_EVERY = 10  # validations: longer sequences cost many times as much
ENTROPY_STEPS = 3  # of each sequence, and its end, at which weightings should be sharp


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


def train_supervised(settings: SupervisedSettings, config: str, *, show_progress: bool = True) -> SupervisedResult:
    """Trains a new network into a new run directory; arguments and errors as `training.train`."""
    trainer = SupervisedTrainer(settings)  # before the folder: what fails here leaves nothing behind
    with SignalListener():  # from here on a signal ends the training with a checkpoint
        run = Run.create(settings, config)
        with run.owned():
            return _learn_guarded(trainer, run, show_progress, {})


def resume_supervised(run: Run, settings: SupervisedSettings, *, show_progress: bool = True) -> SupervisedResult:
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


class SupervisedTrainer:
    """A network, its optimizer, and the stream of sequences that it learns from.

    Attributes:
        network: What is trained.
        average: The running mean of its weights, which is what is validated and kept.
        sequences: Seen so far.
        best: The lowest cost of a validation so far, in bits per sequence.
        overflows: Batches in a row whose gradient was not finite.
        last: The cost of the last validation, None without any.
        sums: Bits per sequence, share of wrong bits and gradient norm, summed up since the last row of metrics.
        updates: Since then.
        rollbacks: How often the run went back to a checkpoint; each time halves the learning rate.
    """

    def __init__(self, settings: SupervisedSettings):
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.settings, self.task, self._lessons = settings, settings.make_task(), settings.make_task()
        self._lessons.uneven = settings.uneven
        torch.manual_seed(settings.seed)
        sizes = self.task.input_size, self.task.output_size
        self.network = SequenceNetwork(settings.core, *sizes, **settings.core_kwargs).to(get_device(settings.device))
        self.optimizer = make_optimizer(settings.optimizer, self.network)
        # A rare sequence can throw a solved task's weights off for some hundred updates; their mean stays put.
        decay = get_ema_multi_avg_fn(settings.optimizer.averaging)
        self.average = AveragedModel(self.network, multi_avg_fn=decay)
        self.curriculum = Curriculum(self.task, settings.curriculum)
        self.sequences, self.best = 0, math.inf
        self.last: float | None = None
        self.overflows = 0
        self.sums, self.updates = [0.0, 0.0, 0.0], 0
        self.rollbacks = 0
        self._rng = np.random.default_rng(settings.seed)
        self._parameters = list(self.network.parameters())

    def update(self) -> tuple[Tensor, Tensor, Tensor]:
        """Learns from one batch; returns its bits per sequence, share of wrong bits and gradient norm."""
        settings = self.settings
        difficulty = self.curriculum.draw(self._rng)
        batch = self._lessons.sample(settings.batch_size, self._rng, difficulty)
        inputs, blur = tensor_on(self.network, batch.inputs), settings.optimizer.weighting_entropy
        if blur and isinstance(self.network.core, Ntm) and len(inputs) > 1:
            steps = np.unique(self._rng.integers(1, len(inputs), size=ENTROPY_STEPS)).tolist()
            logits, entropy = self.network.with_entropy(inputs, steps)
        else:
            logits, entropy = self.network(inputs), torch.zeros(())
        targets, mask = tensor_on(self.network, batch.targets), tensor_on(self.network, batch.mask)
        cost = bits_of(logits, targets, mask).mean()
        self.optimizer.zero_grad()
        (cost + blur * entropy).backward()
        norm = self._step(cost.item(), difficulty)
        self.sequences += settings.batch_size
        wrong = ((logits.detach() > 0) != (targets > 0))[mask].float().mean()
        if self.curriculum.level < self.curriculum.levels:
            self.curriculum.report(difficulty, float(wrong))
        return cost.detach(), wrong, norm

    def _step(self, cost: float, difficulty: Difficulty) -> Tensor:
        """Changes the weights by the gradient; returns its norm before clipping.

        A gradient that overflowed is left out: through hundreds of steps of a recurrent network that happens, and the
        next sequences are as good. Many in a row are a training that has failed.

        Raises:
            NonFiniteError: the cost, or too many gradients in a row, are not finite.
        """
        settings = self.settings.optimizer
        if settings.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters, settings.clip_value)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm or math.inf)
        is_linear = settings.learning_rate_schedule == "linear"
        share = max(1 - self.sequences / self.settings.total_sequences, 0) if is_linear else 1
        if is_linear or self.rollbacks:
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate * share * 0.5**self.rollbacks
        if math.isfinite(norm):
            self.overflows = 0
            self.optimizer.step()
            self.average.update_parameters(self.network)
            return norm
        self.overflows += 1
        if self.overflows == MAX_OVERFLOWS or not math.isfinite(cost):
            gradients = f"the gradients of {MAX_OVERFLOWS} batches in a row are"
            what = gradients if math.isfinite(cost) else "the cost is"
            message = f"{what} not finite at sequence {self.sequences:,}; the checkpoints are whole. Lower "
            report = {
                "quantity": "gradient" if math.isfinite(cost) else "cost",
                "cost in bits": repr(cost),
                "gradient norm": repr(float(norm)),
                "sequences": [self.sequences, self.sequences + self.settings.batch_size - 1],
                "difficulty": difficulty,
                "parameters with such a gradient": bad_gradients(self.network),
            }
            raise NonFiniteError(f"{message}optimizer.learning_rate or optimizer.clip_norm", report)
        return torch.zeros_like(norm)

    def validate(self, difficulty: Difficulty | None = None) -> Score:
        """Scores the network on fresh sequences, of one difficulty or of those of training."""
        # Of their own generator: validating more or less often does not change the training.
        rng = np.random.default_rng([self.settings.seed, self.sequences, 1])
        return score(self.averaged, self.task.sample(self.settings.validation.sequences, rng, difficulty), self.task)

    @property
    def averaged(self) -> SequenceNetwork:
        """The network with the mean weights."""
        network: SequenceNetwork = self.average.module  # type: ignore[assignment]
        return network

    def card(self) -> dict[str, Any]:
        """Returns what an exported network says of its training."""
        task = self.settings.task
        options = getattr(task, task.name).model_dump()
        return {"task": task.name, "options": options, "seed": self.settings.seed, "sequences": self.sequences}

    def save(self, folder: Path, pending: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Writes a checkpoint; `pending` are metrics of the row under way, from `tracking.pending_metrics`."""
        document = {
            "kind": KIND,
            "task": self.settings.task.name,
            "sequences": self.sequences,
            "best": self.best if math.isfinite(self.best) else None,
            "level": self.curriculum.level,
            "errors": self.curriculum.errors,
            "generator": generator_state(self._rng),
            "overflows": self.overflows,
            "rollbacks": self.rollbacks,
            "last": self.last,
            "sums": self.sums,
            "updates": self.updates,
            "pending": dict(pending),
        }
        keep = self.settings.checkpoint.keep
        average = {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        write_checkpoint(folder, self.sequences, self.network, self.optimizer, document, average, keep=keep)

    def load(self, path: Path) -> dict[str, Any]:
        """Puts a training back where `save` found it; everything is checked before anything changes.

        Returns:
            The pending metrics saved with it.

        Raises:
            StorageError: damaged, or of another task or network.
        """
        groups, document, optimizer = read_checkpoint(path, KIND, self.network, self.optimizer)
        require_matching(path, groups["average"], self.average.state_dict())
        if document.get("task") != self.settings.task.name:
            task = self.settings.task.name
            raise StorageError(f"{path}: a checkpoint of task {document.get('task')!r}; the config's is {task!r}")
        try:
            sequences, best = count(document["sequences"]), document["best"]
            best = math.inf if best is None else float(best)
            level, errors = count(document["level"]), [float(error) for error in document["errors"]]
            rng, last = generator_of(document["generator"]), document.get("last")
            last = None if last is None else float(last)
            overflows, updates = count(document.get("overflows", 0)), count(document.get("updates", 0))
            rollbacks = count(document.get("rollbacks", 0))
            bits, wrong, norm = map(float, document.get("sums", (0, 0, 0)))
            pending = dict(document.get("pending", {}))
            record_pending(Logger(None, []), pending)
        except Exception as error:  # whatever hostile values make the parsers raise
            raise StorageError(f"{path}: not a {KIND}: {error!r}") from error
        self.curriculum.restore(level, errors)
        put_weights(self.network, groups["policy"])
        self.average.load_state_dict(groups["average"])
        self.optimizer.load_state_dict(optimizer)
        restore_random_states(groups["random"], document["random"])
        self.sequences, self.best, self.last, self._rng = sequences, best, last, rng
        self.overflows, self.sums, self.updates = overflows, [bits, wrong, norm], updates
        self.rollbacks = rollbacks
        return pending


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
