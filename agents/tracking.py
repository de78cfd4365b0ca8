"""Metrics of a run: CSV and TensorBoard always, Weights & Biases as a mirror whose trouble stops nothing."""

import csv
import io
import netrc
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from stable_baselines3.common.logger import Figure, Image, KVWriter, Logger, TensorBoardOutputFormat, Video
from torch.utils.tensorboard import SummaryWriter

from ntm_rl.agents.storage import write_atomically

Mode = Literal["online", "offline", "disabled"]
STEPS = "time/total_timesteps"


class CsvWriter(KVWriter):
    """Appends a row of numbers a dump to `progress.csv`; a metric that comes up later gets a column of its own.

    Args:
        path: The file; what is in it stays.
    """

    def __init__(self, path: Path):
        self._path = path
        self._columns = _read_header(path)
        self._file = path.open("a", newline="")

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """See `stable_baselines3.common.logger.KVWriter.write`."""
        row = {key: value for key, value in key_values.items() if _is_number(value) and "csv" not in key_excluded[key]}
        new = sorted(row.keys() - set(self._columns))
        if new:
            self._add_columns(new)
        csv.DictWriter(self._file, self._columns, lineterminator="\n").writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add_columns(self, new: list[str]) -> None:
        self._file.close()
        rows = _read_rows(self._path)
        self._columns = [*self._columns, *new]
        _write_rows(self._path, self._columns, rows)
        self._file = self._path.open("a", newline="")


class WandbWriter(KVWriter):
    """Sends one `run.log` a dump, against environment steps as a metric and not as W&B's own step.

    W&B drops what is logged under a step that has passed, which is what a resumed run does.
    """

    def __init__(self, run: Any):
        self._run = run
        self._works = True
        self._try(lambda: run.define_metric(STEPS))
        self._try(lambda: run.define_metric("*", step_metric=STEPS))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """See `stable_baselines3.common.logger.KVWriter.write`."""
        row = {
            key: _to_wandb(value)
            for key, value in key_values.items()
            if "wandb" not in key_excluded[key] and not isinstance(value, str)
        }
        self._try(lambda: self._run.log({**row, STEPS: step}))

    def log_agent(self, name: str, folder: Path, aliases: list[str], metadata: Mapping[str, Any]) -> None:
        """Sends an exported agent as a new version of an artifact."""

        def send() -> None:
            artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
            artifact.add_dir(str(folder))
            self._run.log_artifact(artifact, aliases=aliases)

        self._try(send)

    def close(self) -> None:
        """Ends the run."""
        self._try(self._run.finish)

    def _try(self, action: Callable[[], object]) -> None:
        if not self._works:
            return
        try:
            action()
        except Exception as error:  # whatever W&B's trouble is, the run directory holds everything
            self._works = False
            warnings.warn(f"Weights & Biases failed and is left alone from here on: {error}", stacklevel=3)


class TensorBoardWriter(TensorBoardOutputFormat):
    """SB3's TensorBoard writer, which a resumed training tells from which step on its earlier events are void."""

    def __init__(self, folder: Path, steps: int):
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=steps + 1 if steps else None)
        self._is_closed = False


def make_logger(run_dir: Path, wandb_writer: WandbWriter | None, steps: int = 0) -> Logger:
    """Makes SB3's logger of a run: `progress.csv`, `tensorboard/` and, if given, W&B.

    Args:
        run_dir: The run directory.
        wandb_writer: From `start_wandb`.
        steps: Environment steps at which a training resumes; what was logged later will be logged again.
    """
    progress = run_dir / "progress.csv"
    if progress.exists():
        rows = [row for row in _read_rows(progress) if float(row[STEPS] or 0) <= steps]
        _write_rows(progress, _read_header(progress), rows)
    writers: list[KVWriter] = [CsvWriter(progress), TensorBoardWriter(run_dir / "tensorboard", steps)]
    return Logger(str(run_dir), [*writers, wandb_writer] if wandb_writer else writers)


def start_wandb(
    run_dir: Path,
    config: Mapping[str, Any],
    *,
    mode: Mode | None,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
) -> WandbWriter | None:
    """Starts, or goes on with, the W&B run of a run directory; its id is made of the folder's name.

    Args:
        run_dir: The run directory; W&B's own files go into its `wandb/`.
        config: The resolved configuration.
        mode: None means online where a login exists and else offline.
        project: W&B project.
        entity: W&B user or team.
        group: W&B group.
        tags: W&B tags.

    Returns:
        A writer, or None if tracking is disabled or W&B failed to start.
    """
    mode = default_mode() if mode is None else mode
    if mode == "disabled":
        return None
    name = f"{run_dir.parent.name}-{run_dir.name}"
    try:
        run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            config=dict(config),
            dir=str(run_dir),
            id=name,
            name=name,
            mode=mode,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", disable_code=True, disable_git=True, init_timeout=60),
        )
    except Exception as error:  # as in WandbWriter: a mirror
        warnings.warn(f"Weights & Biases could not start; training goes on without it: {error}", stacklevel=2)
        return None
    return WandbWriter(run)


def default_mode() -> Mode:
    """Returns "online" where a W&B login exists, and else "offline"; asks nobody and no network."""
    chosen = os.environ.get("WANDB_MODE")
    if chosen in ("online", "offline", "disabled"):
        return chosen  # type: ignore[return-value]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].strip("/")
    try:
        return "online" if netrc.netrc().authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def _to_wandb(value: Any) -> Any:
    match value:
        case Video():
            return wandb.Video(value.frames[0].detach().cpu().numpy(), fps=int(value.fps))
        case Figure():
            import matplotlib.pyplot  # noqa: F401  (W&B looks for it without importing it)

            return wandb.Image(value.figure)
        case Image():
            return wandb.Image(value.image)
    return value


def _is_number(value: Any) -> bool:
    return not isinstance(value, (str, Video, Figure, Image)) and getattr(value, "ndim", 0) == 0


def _read_rows(path: Path) -> list[dict[str, str]]:
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a killed process may have left half a row
    return list(csv.DictReader(io.StringIO(whole)))


def _read_header(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _write_rows(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
