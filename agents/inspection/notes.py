"""Notes that a process prints once."""

import sys
from functools import cache


@cache
def print_once(note: str) -> None:
    """Prints a note to standard error, unless this process has printed it before, such as for an earlier page."""
    print(note, file=sys.stderr)
