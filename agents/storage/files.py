"""Writes files atomically."""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ntm_rl.errors import InputError


class StorageError(InputError):
    """A file could not be written or read; a file that existed is untouched."""


class WriteError(StorageError):
    """A write failed: full disk, missing permission, or another error of the system."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that readers see the whole old or the whole new content, even after a crash.

    Raises:
        WriteError: disk full, no permission, or another error of the system.
    """
    temporary = _temporary(path)
    try:
        with open(temporary, "wb", opener=_through_no_link) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # also KeyboardInterrupt, to leave no partial file
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        untouched = "; an older file is untouched" if os.path.isfile(path) else ""
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}{untouched}") from error
    _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Checks that `write_atomically` could write a file, before the work for its content starts.

    Raises:
        WriteError: a folder of that name, no permission, or another error of the system.
    """
    temporary = _temporary(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with open(temporary, "wb", opener=_through_no_link):
            pass
        temporary.unlink()
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error


def refuse_links(folder: Path, names: Iterable[str], contents_of: Iterable[str] = ()) -> None:
    """Checks that writing into a folder writes nothing elsewhere.

    Args:
        folder: The folder.
        names: Names of files and folders in it to check.
        contents_of: Names of folders in it to check with their direct entries.

    Raises:
        InputError: a symbolic link, or neither a file nor a folder.
    """
    inside = [folder / name for name in contents_of]
    entries = [entry for each in inside if each.is_dir() and not each.is_symlink() for entry in each.iterdir()]
    for path in (*(folder / name for name in names), *inside, *entries):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = f"a link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "not a regular file"
                raise InputError(f"{path}: {kind}; delete it, or replace it by a copy")


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, if missing.

    Raises:
        WriteError: a file of that name, no permission, or another error of the system.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise WriteError(f"{folder}: must be a folder but is a file; move it away") from error
    except OSError as error:
        raise WriteError(f"{folder}: cannot be made: {error.strerror or error}") from error


def make_output_folder(out: Path) -> None:
    """Makes the folder of the option `--out`, if missing.

    Raises:
        InputError: it is a file, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"out = {str(out)!r}: is a file or below one; choose a folder") from error
    except OSError as error:
        raise InputError(
            f"out = {str(out)!r}: cannot be made: {error.strerror or error}; choose another folder"
        ) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _through_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _sync_folder(folder: Path) -> None:
    # Makes the rename survive a power cut. Some network file systems do not support it; the file is whole anyway.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
