"""The argument parser: errors of one line, overrides written as options, examples in every `--help`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ntm_rl.errors import InputError

Command = Callable[[argparse.Namespace], int]  # returns the exit code


class Parser(argparse.ArgumentParser):
    """An argument parser that raises an `InputError` instead of printing the usage and exiting.

    A command with the argument `overrides` takes `--key value` and `--key=value` as `key=value`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Rejects unknown arguments in the parser of the command, so that the error names the command."""
        if args is not None and any(action.dest == "overrides" for action in self._actions):
            takes_value = {option: action.nargs != 0 for option, action in self._option_string_actions.items()}
            args = options_to_overrides(args, takes_value, self.prog)
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Raises an `InputError`."""
        hint = ""
        unknown = message.removeprefix("unrecognized arguments: ").split(" ")[0]
        if unknown != message.split(" ")[0] and not unknown.startswith("-") and "=" in unknown:
            hint = f" (an option is written --{unknown.replace('=', ' ', 1)})"
        raise InputError(f"{self.prog}: {message}{hint}; see `{self.prog} --help`")


def add_command(
    commands: Any, name: str, command: Command, summary: str, examples: Sequence[str], *, json: bool = True
) -> argparse.ArgumentParser:
    """Adds a command to the parser.

    Args:
        commands: The result of `add_subparsers`.
        name: Name of the command.
        command: Runs the command.
        summary: One line for the list of commands, without a full stop.
        examples: Command lines for the end of its `--help`.
        json: Add the option `--json`.

    Returns:
        The command's parser, to which arguments can be added.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    if json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def options_to_overrides(arguments: Sequence[str], options: Mapping[str, bool], prog: str) -> list[str]:
    """Returns the arguments of a command with `--key=value` and `--key value` as `key=value`.

    The command's own options come first, then the config or run, which is the first positional argument.

    Args:
        arguments: The arguments after the name of the command.
        options: The command's own options, and whether they take a value.
        prog: The command, for the error.

    Raises:
        InputError: an option without a value.
    """
    own: list[str] = []
    first: list[str] = []
    overrides: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        option, equals, _ = argument.partition("=")
        if option in options:
            own.append(argument)
            if options[option] and not equals and left:
                own.append(left.pop(0))
        elif argument == "--":  # only positional arguments follow
            if not first and left:
                first = [argument, left.pop(0)]
            overrides += left
            break
        elif not argument.startswith("--"):
            (overrides if first else first).append(argument)
        elif "=" in argument:
            overrides.append(_key(argument))
        elif left and not left[0].startswith("--") and "=" not in left[0]:
            overrides.append(f"{_key(argument)}={left.pop(0)}")
        else:
            raise InputError(
                f"{argument}: needs a value; write key=value (in a W&B sweep: ${{args_no_hyphens}}). The options of "
                f"`{prog}` without a value are {', '.join(_flags(options))}"
            )
    return [*own, *first, *overrides]


def _flags(options: Mapping[str, bool]) -> list[str]:
    return [option for option, takes_value in options.items() if option.startswith("--") and not takes_value]


def _key(argument: str) -> str:
    name, equals, value = argument.removeprefix("--").partition("=")
    return f"{name.replace('-', '_')}{equals}{value}"
