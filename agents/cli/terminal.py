"""Standard output and standard error: closed, broken or full streams, unencodable characters, one-line warnings."""

import io
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import ntm_rl
from ntm_rl.texts import escaped_lines, one_line

PACKAGE = os.path.dirname(ntm_rl.__file__) + os.sep


class OutputClosedError(Exception):
    """Standard output was closed by its reader, such as `head`."""


def print_lines(*lines: str) -> None:
    """Prints lines to standard output, with escapes for control and formatting characters.

    Raises:
        OutputClosedError: the reader has closed it.
        OSError: it cannot be written, for example because the disk is full.
    """
    try:
        print(*map(escaped_lines, lines), sep="\n", flush=True)
    except BrokenPipeError as error:
        raise OutputClosedError from error


def print_json(value: Any) -> None:
    """Prints a value as one line of JSON, with null for numbers that are not finite; raises as `print_lines`."""
    print_lines(json.dumps(_finite(value)))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


class _BestEffortStream:
    """Standard error without exceptions: text that cannot be written is dropped."""

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
    """Formats a warning without its source line; a warning from outside this package shows where it was raised."""
    text = one_line(" ".join(str(message).splitlines()))
    place = "" if filename.startswith(PACKAGE) else f" ({category.__name__} at {filename}:{lineno})"
    return f"warning: {text}{place}\n"


@contextmanager
def usable_streams() -> Iterator[None]:
    """Makes both streams usable while a command runs, and warnings one line each."""
    _open_closed()
    before, format_before = sys.stderr, warnings.formatwarning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal shows ± as \xb1
    sys.stderr = _BestEffortStream(before)
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        sys.stderr, warnings.formatwarning = before, format_before


def discard_output() -> None:
    """Redirects standard output to the null device, so that Python's flush at exit cannot fail."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _open_closed() -> None:
    """Opens streams that were closed at the start, as otherwise the next opened file would get their descriptor."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                if null != number:
                    os.close(null)
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (stays open until the process ends)
