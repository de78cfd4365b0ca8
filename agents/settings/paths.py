"""Paths in configs and on the command line."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ntm_rl.errors import InputError


def expand(text: str) -> str:
    """Returns a path with `~` and `~user` expanded.

    Raises:
        InputError: a variable, an unknown user, or characters that are not valid in a path.
    """
    if "$" in text:
        raise InputError("variables are not expanded; write the path without $ (~ is expanded)")
    if "\0" in text or not text.strip():
        raise InputError("must be a path")
    try:
        text.encode()
        return str(Path(text).expanduser())
    except UnicodeEncodeError as error:
        raise InputError("must be UTF-8") from error
    except RuntimeError as error:
        raise InputError("~ refers to an unknown user; write the full path") from error


def user_path(name: str, value: str | Path) -> Path:
    """Returns a path with `~` expanded.

    Args:
        name: Name of the argument, for the error.
        value: The path.

    Raises:
        InputError: see `expand`.
    """
    try:
        return Path(expand(str(value)))
    except InputError as error:
        raise InputError(f"{name} = {str(value)!r}: {error}") from error


def display_path(path: Path) -> str:
    """Returns a path for display: relative if it is below the current folder."""
    with suppress(OSError, ValueError):  # the current folder was deleted, or the path is elsewhere
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _expand_if_given(text: str | None) -> str | None:
    return None if text is None else expand(text)


PathText = Annotated[str, AfterValidator(expand)]
OptionalPathText = Annotated[str | None, AfterValidator(_expand_if_given)]
