"""The supervised trainer: binary cross-entropy on the masked steps of algorithmic tasks, in bits per sequence."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import get_device
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ntm_rl.agents.parallel.gradients import sum_gradients
from ntm_rl.agents.parallel.joining import join
from ntm_rl.agents.policy.network_files import save_network
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.nonfinite import NonFiniteError, bad_gradients
from ntm_rl.agents.runs.trainer import Session, WritePage
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.storage.checkpoints import SUPERVISED_CHECKPOINT, read_checkpoint, write_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.random_states import restore_random_states
from ntm_rl.agents.storage.tensors import put_weights, require_matching
from ntm_rl.agents.supervised.checkpoints import SavedState
from ntm_rl.agents.supervised.optimizers import make_optimizer
from ntm_rl.agents.supervised.scores import Score, bits_of, label, score, tensor_on
from ntm_rl.agents.tracking.logger import PendingMetrics, pending_metrics
from ntm_rl.envs.algorithmic.curriculum import Curriculum
from ntm_rl.envs.algorithmic.task import Difficulty
from ntm_rl.errors import InputError

MAX_OVERFLOWS = 20
ENTROPY_STEPS = 3  # steps of a sequence, besides the last, at which the entropy of the weightings is taken
LONGER_EVERY = 10  # validations: longer sequences cost many times as much


class SupervisedTrainer:
    """Trains a network on an algorithmic task; see `Trainer`.

    With several ranks, each draws the same batches and learns from a part of their sequences.

    Args:
        settings: Settings of the training.
        checkpoint: The checkpoint to resume from; None: a new training.
        write_page: Writes the pages of `watch.every`.

    Raises:
        InputError: more ranks than sequences in a batch.
        StorageError: the checkpoint is damaged, or of another task or network.

    Attributes:
        network: The network.
        average: The running mean of its weights, which is validated and saved.
        sequences: Number of sequences so far.
        best: The lowest cost of a validation so far, in bits per sequence.
        last: The cost of the last validation; None before the first.
        overflows: Number of successive batches whose gradient was not finite.
        sums: Sums of bits per sequence, fraction of wrong bits and gradient norm since the last row of metrics.
        updates: Number of updates since then.
        ranks: The ranks of the training.
        rollbacks: See `Trainer`.
        pending: See `Trainer`.
    """

    def __init__(
        self, settings: SupervisedTrainingSettings, checkpoint: Path | None = None, write_page: WritePage | None = None
    ):
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.ranks = join()
        if settings.batch_size < self.ranks.size:
            raise InputError(
                f"batch_size = {settings.batch_size}: must be at least the number of processes, {self.ranks.size}"
            )
        self.settings, self.task, self._training_task = settings, settings.make_task(), settings.make_task()
        self._training_task.biased_fraction = settings.biased_fraction
        torch.manual_seed(settings.seed)
        sizes = self.task.input_size, self.task.output_size
        settings.import_core()
        device = get_device(settings.device)
        self.ranks.check_device(device)
        self.network = SequenceNetwork(settings.core_name, *sizes, **settings.core_kwargs).to(device)
        is_noted = settings.optimizer.weighting_entropy and self.ranks.is_first
        if is_noted and not self.network.core.has_weightings():
            print(f"note: optimizer.weighting_entropy: core {settings.core!r} has no weightings", file=sys.stderr)
        self.optimizer = make_optimizer(settings.optimizer, self.network)
        # A rare sequence can disturb the weights of a solved task for some hundred updates, but not their mean.
        decay = get_ema_multi_avg_fn(settings.optimizer.averaging)
        self.average = AveragedModel(self.network, multi_avg_fn=decay)
        self.averaged.to(device)  # cuDNN warns of weights that were copied but not moved
        self.curriculum = Curriculum(self.task, settings.curriculum)
        self.sequences, self.best = 0, math.inf
        self.last: float | None = None
        self.overflows, self.rollbacks = 0, 0
        self.sums, self.updates = [0.0, 0.0, 0.0], 0
        self.pending: PendingMetrics = {}
        self._write_page = write_page
        self._rng = np.random.default_rng(settings.seed)
        self._parameters = list(self.network.parameters())
        if checkpoint is not None:
            self.load(checkpoint)

    @property
    def steps(self) -> int:
        """See `Trainer.steps`."""
        return self.sequences

    @property
    def score(self) -> float | None:
        """See `Trainer.score`."""
        return self.last

    @property
    def best_score(self) -> float | None:
        """See `Trainer.best_score`."""
        return self.best

    def describe(self) -> list[str]:
        """See `Trainer.describe`."""
        return []

    def close(self) -> None:
        """See `Trainer.close`."""

    def save_agent(self, folder: Path) -> None:
        """See `Trainer.save_agent`; writes the network with the mean weights."""
        save_network(self.averaged, folder, self.card())

    def learn(self, session: Session) -> None:
        """See `Trainer.learn`."""
        settings, folder, begin = self.settings, session.run.checkpoints, self.sequences
        while self.sequences < settings.total_sequences and not session.is_stopped:
            first = self.sequences
            is_complete = self._learn_row(session)
            if session.is_stopped and not is_complete:
                break  # the row is completed when the training is resumed
            self._record_means(session.logger)
            self._write_page_if_due(session, first)
            session.logger.record("time/sequences_per_second", session.steps_per_second(self.sequences))
            session.logger.record(settings.kind.steps_metric, self.sequences)
            session.logger.dump(self.sequences)
            if _passes(self.sequences - settings.batch_size, self.sequences, settings.checkpoint.every):
                self.save(folder)
        if self.sequences > begin or begin == 0:  # else the checkpoint exists, with the last step's learning rate
            self.save(folder, pending_metrics(session.logger))

    def _write_page_if_due(self, session: Session, first: int) -> None:
        """Writes a page if a multiple of `watch.every` was passed since the sequence `first`."""
        every, write_page = self.settings.watch.every, self._write_page
        if every is None or write_page is None or not self.ranks.is_first:
            return
        if _passes(first, self.sequences, every):
            write_page(session, self.sequences, self.save_agent)

    def _learn_row(self, session: Session) -> bool:
        """Learns until the next row of metrics is due or the training ends; returns whether it is due."""
        settings, is_due = self.settings, False
        while self.sequences < settings.total_sequences and not session.is_stopped and not is_due:
            before = self.sequences
            self.sums = [total + float(each) for total, each in zip(self.sums, self.update(), strict=True)]
            self.updates += 1
            if _passes(before, self.sequences, settings.validation.every):
                self._validate(session)
            is_due = _passes(before, self.sequences, settings.log_every)
            if _passes(before, self.sequences, settings.checkpoint.every) and not is_due:
                self.save(session.run.checkpoints, pending_metrics(session.logger))
        session.show_progress(self.sequences, f"{self.sums[0] / max(self.updates, 1):.3f} bits per sequence")
        return is_due

    def _record_means(self, logger: Logger) -> None:
        """Records the means over the updates since the last row of metrics."""
        names = ("train/bits_per_sequence", "train/wrong_bits", "train/gradient_norm")
        for name, total in zip(names, self.sums, strict=True):
            logger.record(name, total / max(self.updates, 1))
        self.sums, self.updates = [0.0, 0.0, 0.0], 0
        logger.record("train/learning_rate", self.optimizer.param_groups[0]["lr"])
        logger.record("train/level", self.curriculum.level)

    def _validate(self, session: Session) -> None:
        validation, logger = self.settings.validation, session.logger
        result = self.validate()
        self.last = result.bits
        logger.record("validation/bits_per_sequence", result.bits)
        logger.record("validation/wrong_bits", result.wrong)
        if result.floor:
            logger.record("validation/bits_above_optimum", result.bits - result.floor)
        if result.bits < self.best:
            self.best = result.bits
            if self.ranks.is_first:
                save_network(self.averaged, session.run.best, {**self.card(), "bits": result.bits})
        if self.sequences // validation.every % LONGER_EVERY == 0:
            for difficulty in validation.longer:
                longer, name = self.validate(difficulty), label(difficulty)
                logger.record(f"validation/{name}/bits_per_sequence", longer.bits)
                logger.record(f"validation/{name}/wrong_bits", longer.wrong)

    def update(self) -> tuple[Tensor, Tensor, Tensor]:
        """Learns from one batch; returns its bits per sequence, fraction of wrong bits and gradient norm."""
        settings = self.settings
        difficulty = self.curriculum.draw(self._rng)
        batch = self._training_task.sample(settings.batch_size, self._rng, difficulty)
        rows = self.ranks.rows(settings.batch_size)
        inputs, entropy_weight = tensor_on(self.network, batch.inputs[:, rows]), settings.optimizer.weighting_entropy
        if entropy_weight and self.network.core.has_weightings() and len(inputs) > 1:
            steps = np.unique(self._rng.integers(1, len(inputs), size=ENTROPY_STEPS)).tolist()
            logits, entropy = self.network.with_entropy(inputs, steps)
        else:
            logits, entropy = self.network(inputs), torch.zeros(())
        targets, mask = (tensor_on(self.network, each[:, rows]) for each in (batch.targets, batch.mask))
        cost = bits_of(logits, targets, mask).mean()
        is_wrong = ((logits.detach() > 0) != (targets > 0)) & mask.unsqueeze(2)
        wrong = is_wrong.sum() / float(batch.mask[:, rows].sum() * targets.shape[2])  # on the host
        share = inputs.shape[1] / settings.batch_size
        self.optimizer.zero_grad()
        (share * (cost + entropy_weight * entropy)).backward()
        wrong *= float(batch.mask[:, rows].sum() / batch.mask.sum())  # the mean over all masked bits
        cost, wrong = sum_gradients(self.ranks, self._parameters, torch.stack([share * cost.detach(), wrong])).unbind()
        norm = self._step(cost.item(), difficulty)
        self.sequences += settings.batch_size
        if self.curriculum.level < self.curriculum.levels:
            self.curriculum.report(difficulty, float(wrong))
        return cost, wrong, norm

    def _step(self, cost: float, difficulty: Difficulty) -> Tensor:
        """Updates the weights and returns the norm of the gradient before clipping.

        A batch whose gradient overflows is skipped: this happens through hundreds of steps of a recurrent network. Many
        such batches in a row mean that the training has failed.

        Raises:
            NonFiniteError: the cost, or too many gradients in a row, are not finite.
        """
        settings = self.settings.optimizer
        if settings.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters, settings.clip_value)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm or math.inf)
        self._set_learning_rate()
        if math.isfinite(norm):
            self.overflows = 0
            self.optimizer.step()
            self.average.update_parameters(self.network)
            return norm
        self.overflows += 1
        if self.overflows == MAX_OVERFLOWS or not math.isfinite(cost):
            raise self._nonfinite_error(cost, float(norm), difficulty)
        return torch.zeros_like(norm)

    def _set_learning_rate(self) -> None:
        settings = self.settings.optimizer
        is_linear = settings.learning_rate_schedule == "linear"
        remaining = max(1 - self.sequences / self.settings.total_sequences, 0) if is_linear else 1
        if is_linear or self.rollbacks:
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate * remaining * 0.5**self.rollbacks

    def _nonfinite_error(self, cost: float, norm: float, difficulty: Difficulty) -> NonFiniteError:
        is_cost = not math.isfinite(cost)
        subject = "the cost is" if is_cost else f"the gradients of {MAX_OVERFLOWS} batches in a row are"
        report = {
            "quantity": "cost" if is_cost else "gradient",
            "cost in bits": repr(cost),
            "gradient norm": repr(norm),
            "sequences": [self.sequences, self.sequences + self.settings.batch_size - 1],
            "difficulty": difficulty,
            "parameters with such a gradient": bad_gradients(self.network),
        }
        return NonFiniteError(f"{subject} not finite; lower optimizer.learning_rate or optimizer.clip_norm", report)

    def validate(self, difficulty: Difficulty | None = None) -> Score:
        """Scores the network on fresh sequences, of one difficulty or of the training's."""
        # With a separate generator, so that the validation interval does not change the training.
        rng = np.random.default_rng([self.settings.seed, self.sequences, 1])
        return score(self.averaged, self.task.sample(self.settings.validation.sequences, rng, difficulty), self.task)

    @property
    def averaged(self) -> SequenceNetwork:
        """The network with the mean weights."""
        network: SequenceNetwork = self.average.module  # type: ignore[assignment]
        return network

    def card(self) -> dict[str, Any]:
        """Returns JSON values that describe the training, for the network's card."""
        task = self.settings.task
        options = getattr(task, task.name).model_dump()
        return {"task": task.name, "options": options, "seed": self.settings.seed, "sequences": self.sequences}

    def save(self, folder: Path, pending: PendingMetrics | None = None) -> None:
        """Writes a checkpoint; `pending` are the metrics recorded for the next row."""
        state = SavedState(
            sequences=self.sequences,
            best=self.best,
            last=self.last,
            level=self.curriculum.level,
            errors=self.curriculum.errors,
            rng=self._rng,
            overflows=self.overflows,
            rollbacks=self.rollbacks,
            sums=self.sums,
            updates=self.updates,
            pending=pending or {},
        )
        if not self.ranks.is_first:
            return
        average = {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        write_checkpoint(
            folder,
            self.sequences,
            self.network,
            self.optimizer,
            state.document(self.settings.task.name),
            average,
            keep=self.settings.checkpoint.keep,
        )

    def load(self, path: Path) -> None:
        """Restores a training from a checkpoint; everything is checked before anything changes.

        Raises:
            StorageError: damaged, or of another task or network.
        """
        groups, document, optimizer = read_checkpoint(path, SUPERVISED_CHECKPOINT, self.network, self.optimizer)
        require_matching(path, groups["average"], self.average.state_dict())
        task = self.settings.task.name
        if document.get("task") != task:
            raise StorageError(f"{path}: a checkpoint of task {document.get('task')!r}; the config's is {task!r}")
        try:
            state = SavedState.parse(document)
        except Exception as error:  # the parsers raise all kinds of errors for hostile values
            raise StorageError(f"{path}: not a {SUPERVISED_CHECKPOINT}: {error!r}") from error
        self.curriculum.restore(state.level, state.errors)
        put_weights(self.network, groups["policy"])
        self.average.load_state_dict(groups["average"])
        self.optimizer.load_state_dict(optimizer)
        restore_random_states(groups["random"], document["random"], self._parameters[0].device)
        self.sequences, self.best, self.last, self._rng = state.sequences, state.best, state.last, state.rng
        self.overflows, self.rollbacks, self.pending = state.overflows, state.rollbacks, state.pending
        self.sums, self.updates = state.sums, state.updates


def _passes(before: int, after: int, every: int) -> bool:
    """Whether a count passed a multiple of `every`."""
    return before // every != after // every
