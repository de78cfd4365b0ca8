"""Standard output and standard error as a command finds them: closed, full, gone, or unable to show every letter.

And what is shown there of warnings.
"""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep


class OutputClosedError(Exception):
    """The reader of standard output has seen enough, as `head` does."""


def say(*lines: str) -> None:
    """Prints lines to standard output.

    Raises:
        OutputClosedError: nobody reads it any more.
        OSError: it cannot be written, such as on a full disk.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError as error:
        raise OutputClosedError from error


class _Patient:
    """Standard error whose trouble ends nothing: what cannot be written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Formats a warning without a line of code; one of other packages or of the user's code says where it is from."""
    text = " ".join(str(message).splitlines())
    place = "" if filename.startswith(PACKAGE) else f" ({category.__name__} at {filename}:{lineno})"
    return f"warning: {text}{place}\n"


@contextmanager
def usable_streams() -> Iterator[None]:
    """Makes both streams usable while a command runs, and warnings one line each."""
    _open_closed()
    before, format_before = sys.stderr, warnings.formatwarning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal shows \xb1 for what it has no letter for
    sys.stderr = _Patient(before)
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        sys.stderr, warnings.formatwarning = before, format_before


def drop_output() -> None:
    """Makes Python's own flush at its end write what is left of standard output nowhere."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _open_closed() -> None:
    """Opens what was closed before the start: else the next file to be opened would get the streams' number."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                if null != number:
                    os.close(null)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (as long as the process)
