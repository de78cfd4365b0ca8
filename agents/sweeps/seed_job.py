"""The trainings of a trial: one for each seed, each an ordinary run in the trial's folder."""

import json
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from ntm_rl.agents.runs.run import runs_of
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.storage.files import WriteError, write_atomically
from ntm_rl.agents.sweeps.scoring import Metric, UnknownMetricError
from ntm_rl.agents.training import train_or_resume
from ntm_rl.errors import InputError


@dataclass(frozen=True)
class SeedResult:
    """The result of a training.

    Attributes:
        seed: Its seed.
        value: The value of the metric; None if the training failed.
        error: The error of a failed training.
        run: Run directory, relative to the trial's folder; None if the training failed.
        is_metric_unknown: Whether the run has no column of the metric.
    """

    seed: int
    value: float | None
    error: str | None = None
    run: str | None = None
    is_metric_unknown: bool = False


@dataclass(frozen=True)
class SeedJob:
    """The training of a trial with one seed, as a job of an engine.

    Attributes:
        folder: Folder of the trial; absolute.
        config: Config of the trial.
        overrides: Settings of this training, among them the seed.
        seed: The seed.
        metric: The value that the sweep compares.
    """

    folder: Path
    config: Path
    overrides: tuple[str, ...]
    seed: int
    metric: Metric

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"trial {int(self.folder.name)}, seed {self.seed}"

    @property
    def lock_file(self) -> Path:
        """The lock of the training."""
        return self.folder / f".seed{self.seed}.lock"

    @property
    def result_file(self) -> Path:
        """The result, once there is one."""
        return self.folder / f"seed{self.seed}.json"

    @property
    def run_folder(self) -> Path | None:
        """The newest run."""
        return next((run.path for run in runs_of(self.folder, self.seed)), None)

    def is_finished(self) -> bool:
        """Whether there is a result, or an error that another try would meet again."""
        return self.result_file.is_file()

    def result(self) -> SeedResult | None:
        """Returns the result, None if there is none yet.

        Raises:
            InputError: the file is damaged.
        """
        try:
            return SeedResult(**json.loads(self.result_file.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.result_file}: cannot be read: {error}; delete it to train again") from error

    def run(self, show_progress: bool) -> signal.Signals | None:
        """Trains, from the last checkpoint if there is one, and writes the result, which may be an error.

        Returns:
            The signal that stopped the training, if any; in this case there is no result yet.

        Raises:
            WriteError: a file cannot be written; there is no result.
        """
        try:
            settings = load_settings(str(self.config), self.overrides)
            settings = settings.model_copy(update={"run_dir": str(self.folder.parent)})
            trained = train_or_resume(settings, self.folder.name, show_progress=show_progress)
            if trained.stopped_by is not None:
                return trained.stopped_by
            value = self.metric.read(trained.run)
            self.write_result(SeedResult(self.seed, value, run=trained.run.name))
        except WriteError:
            raise
        except InputError as error:
            is_unknown = isinstance(error, UnknownMetricError)
            self.write_result(SeedResult(self.seed, None, error=str(error), is_metric_unknown=is_unknown))
        return None

    def write_result(self, result: SeedResult) -> None:
        """Writes the result.

        Raises:
            WriteError: it cannot be written.
        """
        write_atomically(self.result_file, json.dumps(asdict(result), indent=1).encode())
