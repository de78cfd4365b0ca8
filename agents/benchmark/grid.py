"""Trains a grid of agents: every core on every task with several seeds; each cell is an ordinary run.

The state of a grid is on disk: the run directories `<out>/<suite>/<task>/<core>/<run>/`, with a `cell.json` in each
finished one. An interrupted or killed grid continues from there, and several processes may train one grid.
"""

import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from ntm_rl.agents.benchmark.cells import RESULT, Cell, Result, core_sizes, read_result
from ntm_rl.agents.benchmark.scores import epoch_returns, mmer, read_curve, read_speed
from ntm_rl.agents.benchmark.suites import SUITES
from ntm_rl.agents.runs.changes import find_changes
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import make_folder, write_atomically
from ntm_rl.agents.training import resume, train
from ntm_rl.errors import InputError

# Settings that may differ within a grid.
IRRELEVANT = ("seed", "run_dir", "wandb", "tracking", "device", "threads", "checkpoint")
POLL_SECONDS = 0.5
BUSY = 75  # exit status of a process that found its cell in training


class CellBusyError(Exception):
    """Another process trains the cell."""


def run_grid(
    cells: Sequence[Cell], out: Path, *, jobs: int = 1, log: Callable[[str], None] = lambda line: None
) -> signal.Signals | None:
    """Trains all unfinished cells; on SIGINT or SIGTERM the running ones stop with a checkpoint.

    A cell that another process trains is left to that process, and waited for at the end.

    Args:
        cells: See `plan`.
        out: Folder of the grid.
        jobs: Number of parallel trainings; if above 1, each has its own process.
        log: Called with a line for every finished cell.

    Returns:
        The signal that stopped the grid, if any.

    Raises:
        InputError: `out` contains another grid, or trainings failed; the others are finished first.
    """
    if jobs < 1:
        raise InputError(f"jobs = {jobs}: must be at least 1")
    check_folder(cells, out)
    waiting = [cell for cell in cells if _finished(cell, out) is None]
    done = len(cells) - len(waiting)
    if done:
        log(f"{done} of {len(cells)} trainings are already finished")
    with SignalListener() as listener:
        for number, cell in enumerate(_train_all(waiting, out, jobs, listener), done + 1):
            result = read_result(_finished(cell, out) or out)
            log(
                f"{number} of {len(cells)}: {cell.task}, {cell.core}, seed {cell.seed}: MMER {result.mmer:.3f}, "
                f"{result.steps_per_second:,.0f} steps/s"
            )
    return listener.received


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


def run_cell(cell: Cell, out: Path, show_progress: bool = True) -> signal.Signals | None:
    """Trains a cell, from the last checkpoint of an earlier run if there is one, and writes its result.

    Returns:
        The signal that stopped the training, if any; in this case there is no result yet.

    Raises:
        CellBusyError: another process trains it.
    """
    out = out.resolve()
    settings = cell.settings(out)
    with _locked(cell, out):
        return _run_cell(cell, settings, out, show_progress)


def _run_cell(cell: Cell, settings: PpoTrainingSettings, out: Path, show_progress: bool) -> signal.Signals | None:
    if _finished(cell, out) is not None:
        return None
    started = next((run for run in _runs(cell, out) if _has_checkpoint(run)), None)
    if started is None:
        trained = train(settings, cell.name, show_progress=show_progress)
    else:
        run_dir = started.settings().run_dir  # differs if the grid's folder was moved
        trained = resume(started, settings.model_copy(update={"run_dir": run_dir}), show_progress=show_progress)
    if trained.stopped_by is None:
        curve = read_curve(trained.run)
        result = Result(
            cell.suite,
            cell.task,
            cell.core,
            cell.seed,
            trained.steps,
            core_sizes(settings)[1],
            mmer(curve),
            float(epoch_returns(curve)[-1]),
            read_speed(trained.run),
            str(trained.run.relative_to(out)),
        )
        write_atomically(trained.run / RESULT, json.dumps(asdict(result), indent=1).encode())
    return trained.stopped_by


def _train_all(cells: Sequence[Cell], out: Path, jobs: int, listener: SignalListener) -> Iterator[Cell]:
    """Trains cells and yields each finished one, until all are finished or a signal arrives."""
    failed: list[Cell] = []
    if jobs > 1:
        yield from _train_in_processes(list(cells), out, jobs, listener, failed)
    else:
        yield from _train_in_turn(list(cells), out, listener, failed)
    if failed:
        names = "; ".join(f"{cell.name}, seed {cell.seed}" for cell in failed)
        raise InputError(f"{names}: the training failed, see above; the other trainings are kept")


def _train_in_turn(waiting: list[Cell], out: Path, listener: SignalListener, failed: list[Cell]) -> Iterator[Cell]:
    while waiting and listener.received is None:
        cell = _take(waiting, out)
        if cell is None:
            time.sleep(POLL_SECONDS)
            continue
        try:
            stopped = run_cell(cell, out)
        except CellBusyError:
            waiting.append(cell)
        except InputError as error:
            print(error, file=sys.stderr)
            failed.append(cell)
        else:
            listener.received = listener.received or stopped
            if stopped is None:
                yield cell


def _train_in_processes(
    waiting: list[Cell], out: Path, jobs: int, listener: SignalListener, failed: list[Cell]
) -> Iterator[Cell]:
    running = dict[SpawnProcess, Cell]()
    is_stopping = False
    while running or (waiting and not is_stopping):
        while len(running) < jobs and not is_stopping and (cell := _take(waiting, out)) is not None:
            process = multiprocessing.get_context("spawn").Process(target=_train_in_process, args=(cell, out))
            process.start()
            running[process] = cell
        connection.wait([process.sentinel for process in running], POLL_SECONDS)
        for process in [each for each in running if not each.is_alive()]:
            cell = running.pop(process)
            if _finished(cell, out) is not None:
                yield cell
            elif process.exitcode == BUSY:
                waiting.append(cell)
            elif not is_stopping and listener.received is None:
                failed.append(cell)
        if not is_stopping and listener.received is not None:
            is_stopping = True
            for process in running:
                process.terminate()  # on SIGTERM a training finishes its rollout and writes a checkpoint


def _take(waiting: list[Cell], out: Path) -> Cell | None:
    """Removes and returns the first cell that no process trains, if any."""
    for index, cell in enumerate(waiting):
        with suppress(CellBusyError), _locked(cell, out):
            return waiting.pop(index)
    return None


def _train_in_process(cell: Cell, out: Path) -> None:
    """Trains a cell in its own process."""
    os.setpgrp()  # Ctrl-C reaches only the parent, which stops the trainings
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run_cell(cell, out, show_progress=False)
    except CellBusyError:
        sys.exit(BUSY)
    except InputError as error:
        sys.exit(str(error))


@contextmanager
def _locked(cell: Cell, out: Path) -> Iterator[None]:
    """Holds the lock of a cell.

    Raises:
        CellBusyError: another process trains it, such as one of a killed grid that still writes its checkpoint.
    """
    make_folder(out / cell.name)
    with (out / cell.name / f".seed{cell.seed}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends
        except BlockingIOError as error:
            raise CellBusyError from error
        yield


def _runs(cell: Cell, out: Path) -> list[Run]:
    """Returns the runs of a cell, newest first."""
    folders = sorted((out / cell.name).glob(f"*-seed{cell.seed}-????"), reverse=True)
    return [run for run in map(Run, folders) if run.config_file.is_file()]


def _finished(cell: Cell, out: Path) -> Path | None:
    """Returns the directory of the finished run of a cell, if any."""
    return next((run.path for run in _runs(cell, out) if (run.path / RESULT).is_file()), None)


def _has_checkpoint(run: Run) -> bool:
    with suppress(InputError):
        latest_checkpoint(run.checkpoints)
        return True
    return False
