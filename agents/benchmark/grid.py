"""Trains a grid of agents: every core on every task with several seeds, each cell an ordinary run.

All that a grid knows lies on the disk: the run directories `<out>/<suite>/<task>/<core>/<run>/`, and in each that is
finished a `cell.json`. A grid that was interrupted, however roughly, goes on where these end.
"""

import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from ntm_rl.agents.benchmark.cells import RESULT, Cell, Result, core_sizes, read_result
from ntm_rl.agents.benchmark.scores import epoch_returns, mmer, read_curve, read_speed
from ntm_rl.agents.benchmark.suites import SUITES
from ntm_rl.agents.ppo.training import resume, train
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import make_folder, write_atomically
from ntm_rl.errors import InputError

# What may differ between the trainings of a task by a core without making them parts of two grids.
IRRELEVANT = ("seed", "run_dir", "wandb", "tracking", "device", "threads", "checkpoint")
SECONDS_BETWEEN_LOOKS = 0.5


def run_grid(
    cells: Sequence[Cell], out: Path, *, jobs: int = 1, tell: Callable[[str], None] = lambda line: None
) -> signal.Signals | None:
    """Trains all cells that are not finished; on SIGINT or SIGTERM those under way end with a checkpoint.

    Args:
        cells: See `plan`.
        out: Folder of the grid.
        jobs: How many to train at once; from two on in processes of their own.
        tell: Called with a line for every cell that is finished.

    Returns:
        The signal that stopped it, if one did.

    Raises:
        InputError: `out` holds another grid, or a training failed.
    """
    if jobs < 1:
        raise InputError(f"jobs = {jobs}: must be at least 1")
    check_folder(cells, out)
    waiting = [cell for cell in cells if _finished(cell, out) is None]
    done = len(cells) - len(waiting)
    if done:
        tell(f"{done} of {len(cells)} trainings are finished already")
    with SignalListener() as listener:
        for number, cell in enumerate(_train_all(waiting, out, jobs, listener), done + 1):
            result = read_result(_finished(cell, out) or out)
            tell(
                f"{number} of {len(cells)}: {cell.task}, {cell.core}, seed {cell.seed}: MMER {result.mmer:.3f}, "
                f"{result.steps_per_second:,.0f} steps/s"
            )
    return listener.received


def check_folder(cells: Sequence[Cell], out: Path) -> None:
    """Raises an `InputError` if a folder holds the runs of another grid: another suite, or other settings."""
    suite = cells[0].suite
    for other in SUITES:
        if other != suite and (out / other).is_dir():
            raise InputError(f"out = {str(out)!r}: holds a grid of the suite {other!r}; choose another folder")
    begun = {task: _settings_of_runs(out / suite / task) for task in {cell.task for cell in cells}}
    for cell in {cell.name: cell for cell in cells}.values():
        wanted = cell.settings(out).model_dump()
        for core, settings in begun[cell.task]:
            ignored = IRRELEVANT if core == cell.core else (*IRRELEVANT, "core", "memory")
            difference = _difference(settings, wanted, ignored)
            if difference is not None:
                key, old, new = difference
                raise InputError(
                    f"out = {str(out)!r}: holds another grid, whose {suite}/{cell.task}/{core} has {key} = {old} and "
                    f"not {new}; choose another folder"
                )


def _settings_of_runs(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns the core and the settings of every run of a task."""
    runs = [Run(path.parent) for path in folder.glob("*/*-seed*/config.yaml")]
    return [(run.path.parent.name, run.settings().model_dump()) for run in runs]


def run_cell(cell: Cell, out: Path, show_progress: bool = True) -> signal.Signals | None:
    """Trains a cell, from the checkpoint of an earlier attempt if there is one, and writes its result.

    Returns:
        The signal that stopped it, if one did; then there is no result yet.
    """
    out = out.resolve()
    settings = cell.settings(out)
    with _only_here(cell, out):
        return _run_cell(cell, settings, out, show_progress)


def _run_cell(cell: Cell, settings: PpoTrainingSettings, out: Path, show_progress: bool) -> signal.Signals | None:
    if _finished(cell, out) is not None:
        return None
    begun = next((run for run in _runs(cell, out) if _has_checkpoint(run)), None)
    if begun is None:
        trained = train(settings, cell.name, show_progress=show_progress)
    else:
        begun_in = begun.settings().run_dir  # another one where the grid's folder was moved
        trained = resume(begun, settings.model_copy(update={"run_dir": begun_in}), show_progress=show_progress)
    if trained.stopped_by is None:
        curve = read_curve(trained.run)
        result = Result(
            cell.suite,
            cell.task,
            cell.core,
            cell.seed,
            trained.timesteps,
            core_sizes(settings)[1],
            mmer(curve),
            float(epoch_returns(curve)[-1]),
            read_speed(trained.run),
            str(trained.run.relative_to(out)),
        )
        write_atomically(trained.run / RESULT, json.dumps(asdict(result), indent=1).encode())
    return trained.stopped_by


def _train_all(cells: Sequence[Cell], out: Path, jobs: int, listener: SignalListener) -> Iterator[Cell]:
    """Trains cells and yields each that is finished, until all are or a signal came."""
    if jobs > 1:
        yield from _train_in_processes(cells, out, jobs, listener)
        return
    for cell in cells:
        stopped = run_cell(cell, out)
        listener.received = listener.received or stopped
        if stopped is None:
            yield cell
        if listener.received is not None:
            return


def _train_in_processes(cells: Sequence[Cell], out: Path, jobs: int, listener: SignalListener) -> Iterator[Cell]:
    waiting, under_way = list(cells), dict[SpawnProcess, Cell]()
    failed: Cell | None = None
    is_ending = False
    while under_way or (waiting and not is_ending):
        while waiting and len(under_way) < jobs and not is_ending:
            process = multiprocessing.get_context("spawn").Process(target=_train_alone, args=(waiting[0], out))
            process.start()
            under_way[process] = waiting.pop(0)
        connection.wait([process.sentinel for process in under_way], SECONDS_BETWEEN_LOOKS)
        for process in [each for each in under_way if not each.is_alive()]:
            cell = under_way.pop(process)
            if _finished(cell, out) is not None:
                yield cell
            elif not is_ending and listener.received is None:
                failed = cell
        if not is_ending and (listener.received is not None or failed is not None):
            is_ending = True
            for process in under_way:
                process.terminate()  # SIGTERM: it finishes its rollout and writes a checkpoint
    if failed is not None:
        raise InputError(f"{failed.name}, seed {failed.seed}: the training failed, see above; the others are kept")


def _train_alone(cell: Cell, out: Path) -> None:
    """Trains a cell in a process of its own."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which ends the trainings
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run_cell(cell, out, show_progress=False)
    except InputError as error:
        sys.exit(str(error))


@contextmanager
def _only_here(cell: Cell, out: Path) -> Iterator[None]:
    """Waits until no other process trains a cell: one whose grid was killed may still be writing its checkpoint."""
    make_folder(out / cell.name)
    with (out / cell.name / f".seed{cell.seed}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # gone with the process, however it ends
        yield


def _runs(cell: Cell, out: Path) -> list[Run]:
    """Returns the runs of a cell, the newest first."""
    folders = sorted((out / cell.name).glob(f"*-seed{cell.seed}-????"), reverse=True)
    return [run for run in map(Run, folders) if run.config_file.is_file()]


def _finished(cell: Cell, out: Path) -> Path | None:
    """Returns the folder of the run that finished a cell."""
    return next((run.path for run in _runs(cell, out) if (run.path / RESULT).is_file()), None)


def _has_checkpoint(run: Run) -> bool:
    with suppress(InputError):
        latest_checkpoint(run.checkpoints)
        return True
    return False


def _difference(
    old: Mapping[str, Any], new: Mapping[str, Any], ignored: Sequence[str] = ()
) -> tuple[str, Any, Any] | None:
    """Returns the first key, dotted, in which two settings differ, and its values."""
    for key in new:
        if key in ignored:
            continue
        mine, theirs = old.get(key), new[key]
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found = _difference(mine, theirs)
            if found is not None:
                return f"{key}.{found[0]}", *found[1:]
        elif mine != theirs:
            return key, mine, theirs
    return None
