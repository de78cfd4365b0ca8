"""Arguments that several commands share, and the types of arguments."""

import argparse
from contextlib import suppress
from pathlib import Path

from ntm_rl.agents.settings.paths import user_path
from ntm_rl.errors import InputError

MAX_SEED = 2**32 - 1
MAX_COUNT = 10**9  # episodes, steps, trainings or elements of a sequence


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the argument RUN and the option `--trust`."""
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--trust", action="store_true", help="import the modules that the run of another user names")


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of commands that play episodes: agent, actions and seed."""
    parser.add_argument("--best", action="store_true", help="use the best agent of the training instead of the last")
    parser.add_argument(
        "--stochastic", action="store_true", help="sample actions instead of taking the most likely action"
    )
    parser.add_argument(
        "--seed", type=seed, default=10_000, help="seed of the environment and of sampled actions (default: 10000)"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the argument CONFIG."""
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="YAML file, packaged config (see `ntm-rl list configs`) or environment id (default settings)",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments KEY=VALUE."""
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="settings that replace those of the config (see `ntm-rl show CONFIG --keys`)",
    )


def seed(text: str) -> int:
    """Parses a seed."""
    return _integer(text, 0, MAX_SEED)


def count(text: str) -> int:
    """Parses a number of things; the command itself checks the lower bound."""
    try:
        return _integer(text, -MAX_COUNT, MAX_COUNT)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: must be an integer from 1 to {MAX_COUNT:,}") from error


def path(text: str) -> Path:
    """Parses a path and expands `~`."""
    try:
        return user_path("path", text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def names(text: str) -> list[str]:
    """Parses names separated by commas."""
    return [name for name in text.split(",") if name]


def parse_difficulty(text: str) -> dict[str, int]:
    """Parses `length=10,repeats=20`."""
    try:
        pairs = [(name, int(value)) for name, value in (part.split("=") for part in text.split(","))]
    except ValueError as error:
        raise InputError(f"--difficulty {text}: must be like length=10,repeats=20") from error
    if len(dict(pairs)) < len(pairs):
        raise InputError(f"--difficulty {text}: a name occurs twice; repeat --difficulty for each difficulty")
    return dict(pairs)


def _integer(text: str, low: int, high: int) -> int:
    with suppress(ValueError, OverflowError):
        number = float(text)  # 1e6 is an integer too
        if number.is_integer() and low <= number <= high:
            return int(number)
    raise argparse.ArgumentTypeError(f"{text!r}: must be an integer from {low} to {high}")
