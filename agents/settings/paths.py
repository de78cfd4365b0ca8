"""Paths that a user wrote, in a file or on the command line."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ntm_rl.errors import InputError


def expand(text: str) -> str:
    """Returns a path with `~` and `~user` expanded, as a shell would.

    Raises:
        InputError: a variable, which nothing replaces, an unknown user, or characters that no path has.
    """
    if "$" in text:
        raise InputError("has a $, and nothing in a config is evaluated; write the path out (~ is expanded)")
    if "\0" in text or not text.strip():
        raise InputError("must be a path")
    try:
        text.encode()
        return str(Path(text).expanduser())
    except UnicodeEncodeError as error:
        raise InputError("must be UTF-8") from error
    except RuntimeError as error:
        raise InputError("its ~ names no user that has a home; write the path out") from error


def user_path(name: str, value: str | Path) -> Path:
    """Returns a path with `~` expanded; `name` is the argument's, for the error.

    Raises:
        InputError: as `expand`.
    """
    try:
        return Path(expand(str(value)))
    except InputError as error:
        raise InputError(f"{name} = {str(value)!r}: {error}") from error


def shown(path: Path) -> str:
    """Returns a path as it is typed from here: relative where it lies below the current folder."""
    with suppress(OSError, ValueError):  # the current folder is gone, or the path lies elsewhere
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _expand_if_given(text: str | None) -> str | None:
    return None if text is None else expand(text)


PathText = Annotated[str, AfterValidator(expand)]
OptionalPathText = Annotated[str | None, AfterValidator(_expand_if_given)]
