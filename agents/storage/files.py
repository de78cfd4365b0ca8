"""Writes files atomically."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ntm_rl.errors import InputError


class StorageError(InputError):
    """A file could not be written or read; whatever was there before is untouched."""


class WriteError(StorageError):
    """A full disk, a lost permission, or another refusal of the system to write."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees all of the old or all of the new content.

    Raises:
        WriteError: disk full, no permission, or another refusal of the system.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=_through_no_link) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:  # an interrupt from the keyboard must leave no half a file either
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise WriteError(
            f"{path}: cannot be written: {error.strerror or error}; what was there before is untouched"
        ) from error
    _sync_folder(path.parent)


def refuse_links(folder: Path, names: Iterable[str], contents_of: Iterable[str] = ()) -> None:
    """Makes sure that writing into a folder writes nothing elsewhere.

    Args:
        folder: Whose entries are looked at.
        names: Of files and folders in it.
        contents_of: Names of folders in it, which are looked at with the entries right in them.

    Raises:
        InputError: one is a symbolic link, or neither a file nor a folder.
    """
    inside = [folder / name for name in contents_of]
    entries = [entry for each in inside if each.is_dir() and not each.is_symlink() for entry in each.iterdir()]
    for path in (*(folder / name for name in names), *inside, *entries):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = f"a link to {os.readlink(path)}" if stat.S_ISLNK(mode) else "no file"
                raise InputError(f"{path}: {what}; nothing is written through it: delete it, or put a copy there")


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where they are missing.

    Raises:
        WriteError: no permission, or another refusal of the system.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise WriteError(f"{folder}: must be a folder and is a file; move it away") from error
    except OSError as error:
        raise WriteError(f"{folder}: cannot be made: {error.strerror or error}") from error


def _through_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _sync_folder(folder: Path) -> None:
    # Else a power cut could undo the rename; some network file systems know no such call, and the file is whole.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
