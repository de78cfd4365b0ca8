"""A run has one owner while it is written: the process that trains it."""

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
    """Makes this process the owner of a run's folder, until the block ends or the process does.

    The system's lock on `owner.json` decides, which ends with its process however that ends. A file system without
    locks is trusted to show the file at least: then the process that it names decides.

    Raises:
        InputError: another process trains the run, or may.
        WriteError: the folder cannot be written.
    """
    path = run / OWNER
    descriptor = _lock(path)
    try:
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Returns the open and locked file; a file that its owner deleted meanwhile is opened anew."""
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
        return False  # an owner writes its name at once
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # of another user
    return pid != os.getpid()


def _refusal(path: Path, owner: dict[str, Any], has_no_locks: bool) -> str:
    who = f"process {owner.get('pid', '?')} on host {owner.get('host', '?')} since {owner.get('since', '?')}"
    message = f"run = {str(path.parent)!r}: is being trained by {who}; wait for it, or end it"
    if not has_no_locks:
        return message
    return f"{message}; if it has ended and could not say so (its file system knows no locks), delete {path}"
