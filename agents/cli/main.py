"""The command line, `ntm-rl`."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from ntm_rl.agents.cli import (
    benchmark,
    convert_zip,
    copy_config,
    evaluate,
    export_agent,
    inspect_run,
    list_names,
    pull,
    push,
    record,
    show_config,
    sweep,
    train,
    watch,
)
from ntm_rl.agents.cli.exit_codes import BAD_INPUT, CANNOT_WRITE, FILE_ERRORS, exit_code
from ntm_rl.agents.cli.parser import Command, Parser
from ntm_rl.agents.cli.terminal import OutputClosedError, discard_output, usable_streams
from ntm_rl.agents.runs.signals import SIGNAL_BASE
from ntm_rl.errors import InputError
from ntm_rl.interrupts import raise_on_interrupt
from ntm_rl.texts import escaped_lines

COMMANDS = (
    *(train, evaluate, watch, record, inspect_run, export_agent, push, pull),
    *(list_names, show_config, copy_config, convert_zip, sweep, benchmark),
)

TRAINING = (train.train_command, train.resume_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code (see docs/reference/command_line.md)."""
    command: Command | None = None
    with usable_streams():
        try:
            options = make_parser().parse_args(arguments)
            import_module("ntm_rl.agents.policy.policies")  # torch and SB3, after the help
            raise_on_interrupt()
            chosen: Command = options.command
            command = chosen
            return chosen(options)
        except InputError as error:
            if not error.is_reported:
                print(escaped_lines(str(error)), file=sys.stderr)
            return exit_code(error)
        except KeyboardInterrupt:  # before a training starts, or a second signal: SignalListener handles the first
            hint = "; `ntm-rl resume RUN` continues a training that had started" if command in TRAINING else ""
            print(f"interrupted{hint}", file=sys.stderr)
            return SIGNAL_BASE + signal.SIGINT
        except OutputClosedError:
            discard_output()
            return 0
        except OSError as error:
            if error.errno not in FILE_ERRORS:
                raise  # a bug, which needs its traceback
            print(f"{error.filename or 'standard output, or a file'}: {error.strerror or error}", file=sys.stderr)
            discard_output()
            return CANNOT_WRITE
        except MemoryError as error:
            print(f"out of memory{f': {error}' if str(error) else ''}; reduce the sizes", file=sys.stderr)
            return BAD_INPUT


def make_parser() -> Parser:
    """Returns the parser of all commands."""
    parser = Parser("ntm-rl", description="Train and run reinforcement learning agents with memory.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return parser
