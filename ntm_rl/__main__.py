"""The command `ntm-rl`, and `python -m ntm_rl`: what must be in force before torch is imported."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Runs the command line; Ctrl-C while libraries load ends at once, as nothing has been made yet."""
    handles = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where a shell wants it ignored
    if handles:
        # An exception would come out of the middle of some library, which may take it for an error of its own.
        signal.signal(signal.SIGINT, _leave)
    from ntm_rl.agents.cli.main import main as run

    if handles:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
