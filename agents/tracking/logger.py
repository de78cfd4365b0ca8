"""The SB3 logger of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger

from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking.csv_log import CsvWriter, drop_rows_after, number, read_rows_until
from ntm_rl.agents.tracking.tensorboard_log import TensorBoardWriter, check_events
from ntm_rl.agents.tracking.wandb_writer import WandbWriter

PendingMetrics = Mapping[str, tuple[float, list[str]]]  # name: value, and the outputs that leave it out


def make_logger(
    run_dir: Path, wandb_writer: WandbWriter | None, steps: int = 0, steps_key: str = PPO.steps_metric
) -> Logger:
    """Makes the SB3 logger of a run: `progress.csv`, `tensorboard/` and optionally W&B.

    Args:
        run_dir: The run directory.
        wandb_writer: The result of `start_wandb`.
        steps: Step at which a training resumes; the rows of later steps are dropped, as they are logged again.
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


def check_logs(run_dir: Path, steps_key: str = PPO.steps_metric) -> None:
    """Checks that `make_logger` can append to a run's logs, and changes nothing.

    Raises:
        StorageError: a damaged file.
    """
    read_rows_until(run_dir / "progress.csv", steps_key, 0)
    check_events(run_dir / "tensorboard")


def pending_metrics(logger: Logger) -> dict[str, tuple[float, list[str]]]:
    """Returns the numbers that were recorded since the last dump, for a checkpoint."""
    numbers = {key: number(value) for key, value in logger.name_to_value.items()}
    return {
        key: (value, [each for each in logger.name_to_excluded[key] if each])
        for key, value in numbers.items()
        if value is not None
    }


def parse_pending(saved: Any) -> PendingMetrics:
    """Checks the pending metrics of a checkpoint.

    Raises:
        ValueError: they are damaged.
    """
    if not isinstance(saved, Mapping) or not all(map(_is_metric, saved.values())):
        raise ValueError(f"pending = {saved!r}: must map names to a number and a list of outputs")
    return {key: (value, list(excluded)) for key, (value, excluded) in saved.items()}


def _is_metric(saved: Any) -> bool:
    match saved:
        case [int() | float(), [*excluded]]:
            return all(isinstance(each, str) for each in excluded)
    return False


def record_pending(logger: Logger, pending: PendingMetrics) -> None:
    """Records the metrics returned by `pending_metrics` again."""
    for key, (value, excluded) in pending.items():
        logger.record(key, value, tuple(excluded))
