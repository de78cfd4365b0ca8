"""The storages of a sweep: a journal file, or a PostgreSQL database for many hosts."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ntm_rl.agents.settings.environment_variables import without_passwords
from ntm_rl.agents.settings.paths import user_path
from ntm_rl.agents.storage.files import WriteError
from ntm_rl.errors import InputError

JOURNAL = "journal.log"
POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")  # schemes of URLs
CONNECT_SECONDS = 10
URL_LIKE = re.compile(rf"(sqlite|mysql|{'|'.join(map(re.escape, POSTGRES))})(\+\w+)?:")  # also without the slashes
DATABASES = (".db", ".sqlite", ".sqlite3")  # suffixes of SQLite's files
SCHEMA_LOCK = 0x6E746D  # number of the database's lock that is held while Optuna makes its tables


class JournalLock(JournalFileOpenLock):
    """A lock of a journal that the system releases when its process ends; Optuna's own outlive it by 30 seconds.

    Drops a partial last line, of a process that was killed while it wrote, to which the next entry would be appended.

    Args:
        path: The journal.
    """

    def __init__(self, path: Path):
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._descriptor = os.open(f"{self._path}.flock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._drop_partial_line()
        return True

    def release(self) -> None:
        """Releases the lock."""
        os.close(self._descriptor)

    def _drop_partial_line(self) -> None:
        with self._path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end == 0:
                return
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)


def describe_storage(storage: str | None, out: Path) -> str:
    """Returns a storage as absolute path, or as URL without password.

    Args:
        storage: Path of a journal file, or URL of a PostgreSQL database; None: the journal in the sweep's folder.
        out: The sweep's folder.

    Raises:
        InputError: another kind of database.
    """
    if storage is None:
        return str(out / JOURNAL)
    scheme, separator, _ = storage.partition("://")
    if not separator and not URL_LIKE.match(storage):
        return str(user_path("storage", storage).absolute())
    if scheme.startswith("sqlite"):
        raise InputError(
            "storage: SQLite loses trials when several processes write to it; leave out --storage for a journal file, "
            "or use postgresql://..."
        )
    if not separator:
        raise InputError("storage: must be a file or postgresql://USER:PASSWORD@HOST/DATABASE, with two slashes")
    if scheme not in POSTGRES:
        raise InputError(
            f"storage = {without_passwords(storage)!r}: must be a file or postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return without_passwords(storage)


def open_storage(storage: str | None, out: Path) -> BaseStorage:
    """Opens a storage, and makes it if missing; arguments as `describe_storage`.

    Raises:
        InputError: it is not a storage, its package is not installed, or it does not answer.
        WriteError: it cannot be written.
    """
    described = describe_storage(storage, out)
    if storage is not None and "://" in storage:
        return _open_postgres(storage)
    return _open_journal(Path(described))


def close_storage(storage: BaseStorage) -> None:
    """Closes the connections of a database."""
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


@contextmanager
def explained(description: str) -> Iterator[None]:
    """Raises an `InputError` for a database that does not answer any more.

    Args:
        description: See `describe_storage`.
    """
    try:
        yield
    except StorageInternalError as error:
        raise InputError(
            f"storage = {description!r}: does not answer: {_reason(error.__cause__ or error)}; run the same command "
            "to continue"
        ) from error


def _open_journal(path: Path) -> BaseStorage:
    if path.suffix in DATABASES and not path.exists():
        raise InputError(f"storage = {str(path)!r}: is made as a journal, not as a database; name it {path.stem}.log")
    if not path.parent.is_dir():
        raise InputError(f"storage = {str(path)!r}: {str(path.parent)!r} is no folder; make it first")
    try:
        with path.open("rb") as file:
            start = file.read(1)
    except FileNotFoundError:
        start = b""
    except OSError as error:
        raise InputError(f"storage = {str(path)!r}: cannot be read: {error.strerror}") from error
    if start not in (b"", b"{"):
        raise InputError(f"storage = {str(path)!r}: not a journal of Optuna; choose another file")
    try:
        return JournalStorage(JournalFileBackend(str(path), JournalLock(path)))
    except OSError as error:
        raise WriteError(f"storage = {str(path)!r}: cannot be written: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"storage = {str(path)!r}: a damaged journal ({error}); choose another file") from error


def _open_postgres(url: str) -> BaseStorage:
    for package in ("psycopg", "sqlalchemy"):
        if find_spec(package) is None:
            raise InputError(
                f'--storage postgresql://...: {package} is not installed; run: pip install "ntm-rl[postgres]"'
            )
    import psycopg
    from sqlalchemy.exc import SQLAlchemyError

    address = url.partition("://")[2]
    options: dict[str, Any] = {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_SECONDS}}
    try:
        with psycopg.connect(f"postgresql://{address}", connect_timeout=CONNECT_SECONDS) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [SCHEMA_LOCK])  # until the end of the block
            return RDBStorage(f"postgresql+psycopg://{address}", engine_kwargs=options)
    except (psycopg.Error, SQLAlchemyError, RuntimeError, ValueError) as error:
        raise InputError(f"storage = {without_passwords(url)!r}: cannot be used: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(getattr(error, "orig", None) or error).splitlines() if line.strip()]
    return without_passwords(lines[0]) if lines else type(error).__name__
