"""Ownership of a run: only one process trains it at a time."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ntm_rl.agents.storage.files import WriteError
from ntm_rl.errors import InputError

OWNER = "owner.json"
MAX_BYTES = 10_000
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def owned(run: Path) -> Iterator[None]:
    """Makes this process the owner of a run's folder until the block or the process ends.

    The owner holds a file lock on `owner.json`, which the system releases when the process ends. On a file system
    without locks, the run is owned as long as the process that the file names may be alive.

    Raises:
        InputError: another process owns the run, or may own it.
        WriteError: the folder cannot be written.
    """
    path = run / OWNER
    descriptor = _lock(path)
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Opens and locks the file and returns its descriptor; reopens it if its owner deleted it meanwhile."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(descriptor)
            if error.errno not in NO_LOCKS or _may_be_alive(owner):
                os.close(descriptor)
                raise InputError(_refusal(path, owner, error.errno in NO_LOCKS)) from error
            return descriptor
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _owner(descriptor: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(descriptor, MAX_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _may_be_alive(owner: dict[str, Any]) -> bool:
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid < 1:
        return False  # an owner writes its process id at once
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # a process of another user
    return pid != os.getpid()


def _refusal(path: Path, owner: dict[str, Any], has_no_locks: bool) -> str:
    process = f"process {owner.get('pid', '?')} on host {owner.get('host', '?')} since {owner.get('since', '?')}"
    message = f"run = {str(path.parent)!r}: is being trained by {process}; wait for it, or end it"
    if not has_no_locks:
        return message
    return f"{message}; if it has ended (the file system has no locks that would show it), delete {path}"
