"""The command `ntm-rl` and `python -m ntm_rl`: handles Ctrl-C before torch is imported."""

import sys

from ntm_rl.interrupts import exit_on_interrupt


def main() -> int:
    """Runs the command line; Ctrl-C while libraries are imported exits at once."""
    exit_on_interrupt()
    from ntm_rl.agents.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
