"""The words of the command line, and those of other tools that mean the same."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ntm_rl.agents.settings.paths import user_path
from ntm_rl.errors import InputError

# The options of the commands that take overrides; none has a value.
FLAGS = {
    "train": ("--json", "--help"),
    "resume": ("--json", "--trust", "--help"),
    "show": ("--keys", "--help"),
}
MAX_SEED = 2**32 - 1
MAX_NUMBER = 10**9  # of episodes, steps, trainings or elements of a sequence


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake."""

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})  # type: ignore[arg-type]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuses what is unknown where it is found, so that the error names the command."""
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
        raise InputError(f"{self.prog}: {message}{hint}; `{self.prog} --help` lists what is valid")


def overrides_of_options(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a command with `--key=value` and `--key value` as `key=value`.

    Flags come first, then the config or run, which is the first argument that is no option.

    Raises:
        InputError: an option without a value.
    """
    flags = FLAGS.get(arguments[0]) if arguments else None
    if flags is None:
        return list(arguments)
    found: list[str] = []
    first: list[str] = []
    others: list[str] = []
    left = list(arguments[1:])
    while left:
        argument = left.pop(0)
        if argument in flags:
            found.append(argument)
        elif argument == "--":  # what follows is no option, whatever it begins with
            if not first and left:
                first = [argument, left.pop(0)]
            others += left
            break
        elif not argument.startswith("--"):
            (others if first else first).append(argument)
        elif "=" in argument:
            others.append(_key(argument))
        elif left and not left[0].startswith("--") and "=" not in left[0]:
            others.append(f"{_key(argument)}={left.pop(0)}")
        else:
            raise InputError(
                f"{argument}: needs a value, as every setting; write key=value (in a sweep of W&B: "
                f"${{args_no_hyphens}}). The options of {arguments[0]} without one are {', '.join(flags)}"
            )
    return [arguments[0], *found, *first, *others]


def seed(text: str) -> int:
    """Reads the seed of a command."""
    return _integer(text, 0, MAX_SEED)


def number(text: str) -> int:
    """Reads how many; whether so many are possible is the command's to say."""
    try:
        return _integer(text, -MAX_NUMBER, MAX_NUMBER)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: must be an integer of at most {MAX_NUMBER:,}") from error


def path(text: str) -> Path:
    """Reads a path, with `~` expanded."""
    try:
        return user_path("path", text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _integer(text: str, low: int, high: int) -> int:
    with suppress(ValueError, OverflowError):
        number = float(text)  # 1e6 is an integer too
        if number.is_integer() and low <= number <= high:
            return int(number)
    raise argparse.ArgumentTypeError(f"{text!r}: must be an integer from {low} to {high}")


def _key(argument: str) -> str:
    name, equals, value = argument.removeprefix("--").partition("=")
    return f"{name.replace('-', '_')}{equals}{value}"
