"""The command line, `ntm-rl`."""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ntm_rl.agents.cli import (
    benchmark,
    convert_zip,
    copy_config,
    evaluate,
    inspect_run,
    list_names,
    record,
    show_config,
)
from ntm_rl.agents.cli.arguments import add_config, add_overrides, add_run
from ntm_rl.agents.cli.exit_codes import BAD_INPUT, CANNOT_WRITE, FILE_ERRORS, exit_code
from ntm_rl.agents.cli.parser import Parser, add_command
from ntm_rl.agents.cli.terminal import OutputClosedError, discard_output, say, usable_streams
from ntm_rl.agents.runs.signals import SIGNAL_BASE
from ntm_rl.agents.settings.paths import shown
from ntm_rl.errors import InputError

COMMANDS = (evaluate, record, inspect_run, list_names, show_config, copy_config, convert_zip, benchmark)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code (see docs/reference/command_line.md)."""
    with usable_streams():
        try:
            options = make_parser().parse_args(arguments)
            code: int = options.command(options)
            return code
        except InputError as error:
            print(error, file=sys.stderr)
            return exit_code(error)
        except KeyboardInterrupt:  # before a training began, or a second signal: SignalListener handles the first
            print("interrupted; `ntm-rl resume RUN` continues a training that had begun", file=sys.stderr)
            return SIGNAL_BASE + signal.SIGINT
        except OutputClosedError:
            discard_output()
            return 0
        except OSError as error:
            if error.errno not in FILE_ERRORS:
                raise  # a bug: the traceback shows whose
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
    _add_train(commands)
    _add_resume(commands)
    for module in COMMANDS:
        module.add(commands)
    return parser


def _add_train(commands: Any) -> None:
    examples = (
        "ntm-rl train popgym/repeat_previous_easy",
        "ntm-rl train popgym/repeat_previous_easy core=lstm seed=1 wandb=disabled",
        "ntm-rl train popgym/repeat_previous_easy env.id=CartPole-v1 total_timesteps=1e5",
    )
    parser = add_command(commands, "train", _train, "train an agent, or a network on an algorithmic task", examples)
    add_config(parser)
    add_overrides(parser)


def _add_resume(commands: Any) -> None:
    examples = ("ntm-rl resume RUN", "ntm-rl resume RUN total_timesteps=2e6")
    parser = add_command(commands, "resume", _resume, "continue an interrupted training, or train longer", examples)
    add_run(parser)
    add_overrides(parser)


def _train(options: argparse.Namespace) -> int:
    from ntm_rl.agents.ppo.training import train
    from ntm_rl.agents.settings.loading import load_settings, to_yaml, without_effect
    from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
    from ntm_rl.agents.supervised.training import train_supervised

    settings = load_settings(options.config, options.overrides)
    print(to_yaml(settings), file=sys.stderr)
    for key in without_effect(settings, options.overrides):
        print(f"note: {key}: has no effect, as core = {settings.core!r}", file=sys.stderr)
    if isinstance(settings, SupervisedTrainingSettings):
        return _report_supervised(train_supervised(settings, options.config), options.json)
    return _report(train(settings, options.config), options.json)


def _resume(options: argparse.Namespace) -> int:
    from ntm_rl.agents.ppo.training import resume
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.settings.loading import load_settings
    from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
    from ntm_rl.agents.supervised.training import resume_supervised

    run = Run.open(options.run)
    settings = load_settings(str(run.config_file), options.overrides)
    run.require_trust(settings, trust=options.trust)
    if isinstance(settings, SupervisedTrainingSettings):
        return _report_supervised(resume_supervised(run, settings), options.json)
    return _report(resume(run, settings), options.json)


def _report(result: Any, as_json: bool) -> int:
    mean = None if result.mean_return is None else round(result.mean_return, 4)
    row = {"run": shown(result.run), "mean_return": mean, "timesteps": result.timesteps}
    lines = [
        f"after {result.timesteps:,} environment steps ({result.steps_per_second:,.0f} steps/s).",
        f"Mean return of the last episodes: {'none ended' if mean is None else mean}",
    ]
    return _tell({**row, "steps_per_second": round(result.steps_per_second, 1)}, lines, result, as_json)


def _report_supervised(result: Any, as_json: bool) -> int:
    bits = None if result.bits_per_sequence is None else round(result.bits_per_sequence, 5)
    row = {"run": shown(result.run), "bits_per_sequence": bits, "sequences": result.sequences}
    lines = [
        f"after {result.sequences:,} sequences ({result.sequences_per_second:,.0f} sequences/s).",
        f"Bits per sequence of the last validation: {'none was made' if bits is None else bits}",
    ]
    return _tell({**row, "sequences_per_second": round(result.sequences_per_second, 1)}, lines, result, as_json)


def _tell(row: dict[str, Any], lines: list[str], result: Any, as_json: bool) -> int:
    """Prints what came of a training; returns the exit code."""
    if as_json:
        say(json.dumps(row))
    else:
        ended = "Finished" if result.stopped_by is None else f"Stopped by {result.stopped_by.name}"
        next_command = "evaluate" if result.stopped_by is None else "resume"
        run = shown(result.run)
        say(f"{ended} {lines[0]}", *lines[1:], f"Run: {run}", f"Next: ntm-rl {next_command} {shlex.quote(run)}")
    return 0 if result.stopped_by is None else SIGNAL_BASE + int(result.stopped_by)
