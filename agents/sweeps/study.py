"""The study of a sweep in its storage, bound to the sweep's folder, and the locks between processes that share both.

Optuna's heartbeats need a database and `Study.optimize`. Here, a trial belongs to the process that holds the lock of a
file in the sweep's folder. All processes share that folder anyway, as it has the runs and their checkpoints; the system
releases the lock when the process ends, and no clocks are compared.
"""

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from ntm_rl.agents.storage.files import WriteError, make_folder, make_output_folder, write_atomically
from ntm_rl.agents.sweeps.plan import Plan, find_differences
from ntm_rl.agents.sweeps.sampling import SeededTpe, make_pruner
from ntm_rl.agents.sweeps.storage import close_storage, describe_storage, open_storage
from ntm_rl.errors import InputError

SWEEP, LOCK, TRIALS = "sweep.json", ".lock", "trials"
PLAN, FOLDER = "plan", "folder"  # attributes of the study
MAX_DIFFERENCES = 3  # in a message


class OwnedTrial:
    """A trial that no other process runs until it is released, or this process ends.

    Attributes:
        trial: Optuna's trial.
        folder: Folder of its runs.
    """

    def __init__(self, trial: Trial, folder: Path, descriptor: int):
        self.trial, self.folder, self._descriptor = trial, folder, descriptor

    def release(self) -> None:
        """Leaves the trial to other processes."""
        os.close(self._descriptor)


class SweepStudy:
    """The study of a sweep.

    Args:
        plan: The sweep.
        out: The sweep's folder; made if missing.
        storage: See `describe_storage`.

    Attributes:
        plan: The sweep.
        out: The sweep's folder, absolute.
        storage: Description of the storage.
        study: Optuna's study.

    Raises:
        InputError: the folder or the storage contains another sweep, or the storage cannot be used.
        WriteError: the folder cannot be written.
    """

    def __init__(self, plan: Plan, out: Path, storage: str | None = None):
        self.plan, self.out = plan, out.resolve()
        self.storage = describe_storage(storage, self.out)
        self._identity()  # before the storage is made
        if storage is None:
            make_output_folder(out)
        self._backend = open_storage(storage, self.out)
        try:
            make_output_folder(out)
            make_folder(self.out / TRIALS)
            with self.locked():
                self.study = self._open(self._identity() or self._new_identity())
        except InputError:
            self.close()
            raise
        self._study_id = self._backend.get_study_id_from_name(self.study.study_name)

    def close(self) -> None:
        """Closes the storage."""
        close_storage(self._backend)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of the sweep; other processes hold it for moments only."""
        descriptor = _lock(self.out / LOCK)
        try:
            yield
        finally:
            os.close(descriptor)

    def next_trial(self, n_trials: int) -> OwnedTrial | None:
        """Returns a trial whose process has ended, or a new one; None while there is neither.

        Args:
            n_trials: Number of trials of the sweep.
        """
        with self.locked():
            for frozen in self._trials(TrialState.RUNNING):
                with suppress(BlockingIOError):
                    return self._own(frozen.number)
            return self._own(self.study.ask().number) if self._n_started < n_trials else None

    @property
    def _n_started(self) -> int:
        """Number of trials, without those that a user has enqueued."""
        return len(self._trials()) - len(self._trials(TrialState.WAITING))

    def is_done(self, n_trials: int) -> bool:
        """Whether the first trials have a result, also those of other processes."""
        running = any(trial.number < n_trials for trial in self._trials(TrialState.RUNNING))
        return self._n_started >= n_trials and not running

    @property
    def has_complete_trial(self) -> bool:
        """Whether a trial has a score."""
        return bool(self._trials(TrialState.COMPLETE))

    def check_trials(self, n_trials: int) -> None:
        """Checks that a number of trials is not below that of the trials that are finished.

        Raises:
            InputError: it is.
        """
        finished = len(self.finished_trials())
        if finished > n_trials:
            raise InputError(
                f"trials = {n_trials}: {finished} trials are finished already; --trials must be above {finished} to "
                "continue"
            )

    def finished_trials(self) -> list[FrozenTrial]:
        """Returns the trials that are complete, pruned or failed."""
        return self._trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _own(self, number: int) -> OwnedTrial:
        folder = self.out / TRIALS / f"{number:04d}"
        descriptor = _lock(folder / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        trial_id = self._backend.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return OwnedTrial(Trial(self.study, trial_id), folder, descriptor)

    def _identity(self) -> dict[str, Any] | None:
        """Returns the id, storage and study of the folder's sweep; None for a new folder.

        Raises:
            InputError: the sweep uses another storage, or the file is damaged.
        """
        path = self.out / SWEEP
        try:
            identity = json.loads(path.read_bytes())
            storage = identity["storage"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: cannot be read: {reason}; choose another --out") from error
        if storage != self.storage:
            raise InputError(
                f"storage = {self.storage!r}: the sweep in {str(self.out)!r} uses {storage!r}; use that one, or choose "
                "another --out"
            )
        return dict(identity)

    def _new_identity(self) -> dict[str, Any]:
        identity = {"id": secrets.token_hex(8), "storage": self.storage, "study": self.out.name or "sweep"}
        write_atomically(self.out / SWEEP, json.dumps(identity, indent=1).encode())
        return identity

    def _open(self, identity: dict[str, Any]) -> Study:
        """Returns the study, new or after the checks that it is that of this folder and plan."""
        name = identity["study"]
        if name not in optuna.get_all_study_names(self._backend):
            if any((self.out / TRIALS).glob("*.yaml")):
                raise InputError(
                    f"storage = {self.storage!r}: has no study {name!r}, but {str(self.out)!r} has its trials; restore "
                    "the storage, or choose another --out"
                )
            direction = StudyDirection.MINIMIZE if self.plan.metric.minimize else StudyDirection.MAXIMIZE
            optuna.create_study(storage=self._backend, study_name=name, direction=direction)
        sampler = SeededTpe(self.plan.settings.seed, is_conditional=self.plan.space.is_conditional)
        study = optuna.load_study(
            study_name=name, storage=self._backend, sampler=sampler, pruner=make_pruner(self.plan.pruner)
        )
        attributes = study.user_attrs
        if not attributes and not study.get_trials(deepcopy=False):  # just created
            study.set_user_attr(PLAN, self.plan.describe())
            study.set_user_attr(FOLDER, {"id": identity["id"], "path": str(self.out), "host": socket.gethostname()})
            return study
        self._check(attributes, identity)
        return study

    def _check(self, attributes: dict[str, Any], identity: dict[str, Any]) -> None:
        folder = attributes.get(FOLDER, {})
        if PLAN not in attributes or folder.get("id") != identity["id"]:
            place = f" of {folder.get('path')!r} on host {folder.get('host')!r}" if folder else ""
            raise InputError(
                f"storage = {self.storage!r}: its study {identity['study']!r} belongs to another sweep{place}; all "
                "processes of a sweep share one --out; for a new sweep give --out another name"
            )
        differences = find_differences(self.plan, attributes[PLAN])
        if differences:
            more = len(differences) - MAX_DIFFERENCES
            shown = "; ".join(differences[:MAX_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
            raise InputError(f"out = {str(self.out)!r}: contains another sweep: {shown}; choose another --out")


def _lock(path: Path, flags: int = fcntl.LOCK_EX) -> int:
    """Locks a file, made if missing, and returns its descriptor.

    Raises:
        BlockingIOError: another process has locked it, and the flags say not to wait.
    """
    make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, flags)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        raise InputError(f"{path}: cannot be locked: {error.strerror}; choose a folder with file locks") from error
    return descriptor
