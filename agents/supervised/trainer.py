"""The supervised trainer."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import get_device
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.nonfinite import NonFiniteError, bad_gradients
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.storage.cards import KIND
from ntm_rl.agents.storage.checkpoints import (
    count,
    read_checkpoint,
    write_checkpoint,
)
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.random_states import restore_random_states
from ntm_rl.agents.storage.tensors import put_weights, require_matching
from ntm_rl.agents.supervised.optimizers import make_optimizer
from ntm_rl.agents.supervised.scores import Score, bits_of, score, tensor_on
from ntm_rl.agents.tracking.logger import record_pending
from ntm_rl.cores.ntm import Ntm
from ntm_rl.envs.algorithmic.curriculum import Curriculum
from ntm_rl.envs.algorithmic.task import Difficulty
from ntm_rl.envs.state import generator_of, generator_state

MAX_OVERFLOWS = 20


ENTROPY_STEPS = 3  # of each sequence, and its end, at which weightings should be sharp


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

    def __init__(self, settings: SupervisedTrainingSettings):
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.settings, self.task, self._lessons = settings, settings.make_task(), settings.make_task()
        self._lessons.biased_fraction = settings.biased_fraction
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
