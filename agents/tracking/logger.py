"""The SB3 logger of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger

from ntm_rl.agents.tracking.csv_log import CsvWriter, drop_rows_after, number
from ntm_rl.agents.tracking.metrics import STEPS
from ntm_rl.agents.tracking.tensorboard_log import TensorBoardWriter
from ntm_rl.agents.tracking.wandb_writer import WandbWriter


def make_logger(run_dir: Path, wandb_writer: WandbWriter | None, steps: int = 0, steps_key: str = STEPS) -> Logger:
    """Makes the SB3 logger of a run: `progress.csv`, `tensorboard/` and optionally W&B.

    Args:
        run_dir: The run directory.
        wandb_writer: From `start_wandb`.
        steps: Environment steps at which a training resumes; what was logged later will be logged again.
        steps_key: Name of the metric that counts the steps.

    Raises:
        StorageError: the folder cannot be written, or `progress.csv` is not a table.
    """
    progress = run_dir / "progress.csv"
    drop_rows_after(progress, steps_key, steps)
    if wandb_writer is not None and steps > 0:
        wandb_writer.skip_logged_steps()
    writers: list[KVWriter] = [CsvWriter(progress), TensorBoardWriter(run_dir / "tensorboard", steps)]
    return Logger(str(run_dir), [*writers, wandb_writer] if wandb_writer else writers)


def pending_metrics(logger: Logger) -> dict[str, list[Any]]:
    """Returns the numbers that were recorded since the last dump, for a checkpoint."""
    numbers = {key: number(value) for key, value in logger.name_to_value.items()}
    return {
        key: [value, [each for each in logger.name_to_excluded[key] if each]]
        for key, value in numbers.items()
        if value is not None
    }


def record_pending(logger: Logger, saved: Mapping[str, Any]) -> None:
    """Records again what `pending_metrics` returned.

    Raises:
        ValueError, TypeError, AttributeError: it returned no such thing.
    """
    for key, (value, excluded) in saved.items():
        logger.record(key, value if isinstance(value, int) else float(value), tuple(map(str, excluded)))
