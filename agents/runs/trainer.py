"""The interface between the training loop and the algorithms that it runs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from stable_baselines3.common.logger import Logger

from ntm_rl.agents.parallel.ranks import SINGLE, Ranks
from ntm_rl.agents.runs.progress import ProgressDisplay
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.tracking.logger import PendingMetrics


class Session:
    """The run, logger, signals and progress bar of one call of `Trainer.learn`.

    Args:
        run: The run, for checkpoints and the best agent.
        logger: Logger of the metrics.
        signals: Records the signal that ends the training.
        first_step: Step at which the call starts.
        display: The progress bar, if any.
        ranks: The ranks of the training; the first one writes.
    """

    def __init__(
        self,
        run: Run,
        logger: Logger,
        signals: SignalListener,
        first_step: int,
        display: ProgressDisplay | None,
        ranks: Ranks = SINGLE,
    ):
        self.run, self.logger, self.signals, self.ranks = run, logger, signals, ranks
        self._first_step, self._display = first_step, display
        self._start_time = time.monotonic()

    @property
    def is_stopped(self) -> bool:
        """Whether a signal asked the training to end, on any rank; the ranks agree on it."""
        return self.signals.agree(self.ranks)

    def steps_per_second(self, step: int) -> float:
        """Returns the mean speed since the start of the call."""
        return (step - self._first_step) / max(time.monotonic() - self._start_time, 1e-9)

    def show_progress(self, step: int, score: str) -> None:
        """Updates the progress bar."""
        if self._display is not None:
            self._display.update(step, score)


class Trainer(Protocol):
    """An algorithm with its model and its data, new or restored from a checkpoint.

    Attributes:
        rollbacks: Number of rollbacks of the run to a checkpoint; each halves the learning rate.
    """

    rollbacks: int

    @property
    def settings(self) -> AnySettings:
        """The settings that it was made with; sizes that are "auto" have been replaced."""

    @property
    def steps(self) -> int:
        """Environment steps or sequences so far."""

    @property
    def pending(self) -> PendingMetrics:
        """Metrics that had been recorded but not yet dumped when the checkpoint was written."""

    @property
    def score(self) -> float | None:
        """The latest mean return, or bits per sequence; None before there is one."""

    @property
    def best_score(self) -> float | None:
        """The score of the best agent; None before there is one."""

    def describe(self) -> Sequence[str]:
        """Returns lines that describe the model and its data."""

    def learn(self, session: Session) -> None:
        """Trains until `settings.total_steps` or a signal, and writes checkpoints, the last of them at the end.

        Raises:
            NonFiniteError: a number is not finite; the checkpoints are from before.
        """

    def save_agent(self, folder: Path) -> None:
        """Writes the trained agent or network."""

    def close(self) -> None:
        """Closes the environments."""


SaveAgent = Callable[[Path], None]  # to a folder
WritePage = Callable[[Session, int, SaveAgent], None]  # at a step
MakeTrainer = Callable[[Path | None], Trainer]  # from a checkpoint; None: a new training
