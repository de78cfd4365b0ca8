"""Trains a grid of agents: every core on every task with several seeds; each cell is an ordinary run.

The state of a grid is on disk: the run directories `<out>/<suite>/<task>/<core>/<run>/`, with a `cell.json` in each
finished one. An interrupted or killed grid continues from there, and several processes may train one grid.
"""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ntm_rl.agents.benchmark.cells import RESULT, Cell, Result, core_sizes, read_result
from ntm_rl.agents.benchmark.scores import epoch_returns, mmer, read_curve, read_speed
from ntm_rl.agents.benchmark.suites import SUITES
from ntm_rl.agents.engines.jobs import Engine, Job, Outcome, take_free
from ntm_rl.agents.runs.changes import find_changes
from ntm_rl.agents.runs.run import Run, runs_of
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.runs.training import TrainingResult
from ntm_rl.agents.storage.files import make_output_folder, write_atomically
from ntm_rl.agents.training import train_or_resume
from ntm_rl.errors import InputError

# Settings that may differ within a grid.
IRRELEVANT = ("seed", "run_dir", "wandb", "tracking", "device", "threads", "checkpoint")
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class CellJob:
    """The training of a cell.

    Attributes:
        cell: The cell.
        out: Folder of the grid; absolute.
    """

    cell: Cell
    out: Path

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.cell.name}, seed {self.cell.seed}"

    @property
    def lock_file(self) -> Path:
        """The lock of the cell."""
        return self.out / self.cell.name / f".seed{self.cell.seed}.lock"

    def is_finished(self) -> bool:
        """Whether the cell has a result."""
        return _finished(self.cell, self.out) is not None

    def run(self, show_progress: bool) -> signal.Signals | None:
        """Trains the cell, from the last checkpoint of an earlier run if there is one, and writes its result.

        Returns:
            The signal that stopped the training, if any; in this case there is no result yet.
        """
        cell, settings = self.cell, self.cell.settings(self.out)
        trained = train_or_resume(settings, cell.name, show_progress=show_progress)
        if trained.stopped_by is None:
            self._write_result(trained)
        return trained.stopped_by

    def _write_result(self, trained: TrainingResult) -> None:
        cell, curve = self.cell, read_curve(trained.run)
        result = Result(
            cell.suite,
            cell.task,
            cell.core,
            cell.seed,
            trained.steps,
            core_sizes(cell.settings(self.out))[1],
            mmer(curve),
            float(epoch_returns(curve)[-1]),
            read_speed(trained.run),
            str(trained.run.relative_to(self.out)),
        )
        write_atomically(trained.run / RESULT, json.dumps(asdict(result), indent=1).encode())


def run_grid(
    cells: Sequence[Cell], out: Path, engine: Engine, log: Callable[[str], None] = lambda line: None
) -> signal.Signals | None:
    """Trains all unfinished cells; on SIGINT or SIGTERM the running ones stop with a checkpoint.

    A cell that another process trains is left to that process, and waited for at the end.

    Args:
        cells: See `plan`.
        out: Folder of the grid.
        engine: Runs the trainings; it is entered here, once the folder is checked.
        log: Called with a line for every finished cell.

    Returns:
        The signal that stopped the grid, if any.

    Raises:
        InputError: `out` contains another grid, or trainings failed; the others are finished first.
    """
    check_folder(cells, out)
    out = out.resolve()
    waiting: list[Job] = [CellJob(cell, out) for cell in cells if _finished(cell, out) is None]
    done = len(cells) - len(waiting)
    if done:
        log(f"{done} of {len(cells)} trainings are already finished")
    if not waiting:
        return None
    make_output_folder(out)
    with engine, SignalListener() as listener:
        for number, job in enumerate(_train_all(waiting, engine, listener), done + 1):
            assert isinstance(job, CellJob)
            cell, result = job.cell, read_result(_finished(job.cell, out) or out)
            log(
                f"{number} of {len(cells)}: {cell.task}, {cell.core}, seed {cell.seed}: MMER {result.mmer:.3f}, "
                f"{result.steps_per_second:,.0f} steps/s"
            )
    return listener.received


def _train_all(waiting: list[Job], engine: Engine, listener: SignalListener) -> Iterator[Job]:
    """Trains cells and yields each finished one, until all have ended or a signal has stopped them."""
    running, failed, is_stopping = 0, list[Job](), False
    while running or (waiting and not is_stopping):
        while not is_stopping and running < engine.capacity and (job := take_free(waiting)) is not None:
            engine.submit(job)
            running += 1
        for job, outcome in engine.wait(POLL_SECONDS):
            running -= 1
            if outcome is Outcome.FINISHED:
                yield job
            else:
                (failed if outcome is Outcome.FAILED else waiting).append(job)
        if not is_stopping and listener.received is not None:
            is_stopping = True
            engine.stop()
    if failed:
        names = "; ".join(job.name for job in failed)
        raise InputError(f"{names}: the training failed, see above; the other trainings are kept")


def check_folder(cells: Sequence[Cell], out: Path) -> None:
    """Raises an `InputError` if a folder contains runs of another suite or with other settings."""
    suite = cells[0].suite
    for other in SUITES:
        if other != suite and (out / other).is_dir():
            raise InputError(f"out = {str(out)!r}: contains a grid of the suite {other!r}; choose another folder")
    existing = {task: _settings_of_runs(out / suite / task) for task in {cell.task for cell in cells}}
    for cell in {cell.name: cell for cell in cells}.values():
        new_settings = cell.settings(out).model_dump()
        for core, settings in existing[cell.task]:
            ignored = IRRELEVANT if core == cell.core else (*IRRELEVANT, "core", "memory")
            changes = find_changes(settings, new_settings)
            key = next((key for key in changes if key.partition(".")[0] not in ignored), None)
            if key is not None:
                old, new = changes[key]
                raise InputError(
                    f"out = {str(out)!r}: contains another grid: {suite}/{cell.task}/{core} has {key} = {old} "
                    f"instead of {new}; choose another folder"
                )


def _settings_of_runs(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns the core and the settings of every run of a task."""
    runs = [Run(path.parent) for path in folder.glob("*/*-seed*/config.yaml")]
    return [(run.path.parent.name, run.settings().model_dump()) for run in runs]


def _finished(cell: Cell, out: Path) -> Path | None:
    """Returns the directory of the finished run of a cell, if any."""
    runs = runs_of(out / cell.name, cell.seed)
    return next((run.path for run in runs if (run.path / RESULT).is_file()), None)
