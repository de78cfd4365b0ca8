"""Ctrl-C while the command line imports its libraries: one line instead of a traceback."""

import os
import signal
import sys
from itertools import pairwise
from types import FrameType


def is_command_line() -> bool:
    """Returns whether this process was started as `ntm-rl` or `python -m ntm_rl`."""
    arguments = sys.orig_argv
    is_script = len(arguments) > 1 and os.path.basename(arguments[1]) == "ntm-rl"
    return is_script or ("-m", "ntm_rl") in pairwise(arguments)


def exit_on_interrupt() -> None:
    """Lets Ctrl-C exit at once: a library that is being imported may handle an exception as an error of its own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may ignore it
        signal.signal(signal.SIGINT, _exit)


def end_child_on_interrupt() -> None:
    """Lets Ctrl-C end a process of the command line's `multiprocessing` silently while it imports its libraries."""
    program = sys.argv[0] if sys.argv else ""
    is_command = os.path.basename(program) == "ntm-rl" or program.endswith(os.path.join("ntm_rl", "__main__.py"))
    is_child = "--multiprocessing-fork" in sys.orig_argv and is_command
    if is_child and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_on_interrupt() -> None:
    """Undoes `exit_on_interrupt`."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)
