"""The command `ntm-rl` and `python -m ntm_rl`: handles Ctrl-C before torch is imported."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Runs the command line; Ctrl-C while libraries are imported exits at once."""
    handles = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # false where a shell ignores it
    if handles:
        # A library that is being imported might handle an exception as an error of its own.
        signal.signal(signal.SIGINT, _exit)
    from ntm_rl.agents.cli.main import main as run

    if handles:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


def _exit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
