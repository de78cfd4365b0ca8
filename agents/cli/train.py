"""`ntm-rl train` and `ntm-rl resume`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ntm_rl.agents.cli.arguments import add_config, add_overrides, add_run
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.parallel.launched import is_first, is_launched
from ntm_rl.agents.runs.signals import SIGNAL_BASE
from ntm_rl.agents.settings.paths import display_path

if TYPE_CHECKING:
    from ntm_rl.agents.runs.training import TrainingResult
    from ntm_rl.agents.settings.loading import AnySettings


TRAIN_EXAMPLES = (
    "ntm-rl train CartPole-v1",
    "ntm-rl train my_module:MyEnv total_timesteps=1e5",
    "ntm-rl train popgym/repeat_previous_easy",
    "ntm-rl train popgym/repeat_previous_easy core=lstm seed=1 wandb=disabled",
)
RESUME_EXAMPLES = ("ntm-rl resume RUN", "ntm-rl resume RUN total_timesteps=2e6")


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    summary = "train an agent, or a network on an algorithmic task"
    train = add_command(commands, "train", train_command, summary, TRAIN_EXAMPLES)
    add_config(train)
    add_overrides(train)
    summary = "continue an interrupted training, or train longer"
    resume = add_command(commands, "resume", resume_command, summary, RESUME_EXAMPLES)
    add_run(resume)
    add_overrides(resume)


def train_command(options: argparse.Namespace) -> int:
    """Trains in a new run directory and prints the result."""
    from ntm_rl.agents.settings.loading import load_settings, to_short_yaml, without_effect
    from ntm_rl.agents.training import train

    settings = load_settings(options.config, options.overrides)
    if settings.processes > 1 and not is_launched():
        return run_on_ranks(settings, options, "train", options.config)
    if is_first():
        print(to_short_yaml(settings), file=sys.stderr)
        for key in without_effect(settings, options.overrides):
            print(f"note: {key}: has no effect, as core = {settings.core!r}", file=sys.stderr)
    return print_result(train(settings, options.config), as_json=options.json)


def resume_command(options: argparse.Namespace) -> int:
    """Resumes a run and prints the result."""
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.settings.loading import load_settings
    from ntm_rl.agents.training import resume

    run = Run.open(options.run)
    settings = load_settings(str(run.config_file), options.overrides)
    run.require_trust(settings, trust=options.trust)
    if settings.processes > 1 and not is_launched():
        return run_on_ranks(settings, options, "resume", str(run.path), *(["--trust"] if options.trust else []))
    return print_result(resume(run, settings), as_json=options.json)


def run_on_ranks(settings: "AnySettings", options: argparse.Namespace, *arguments: str) -> int:
    """Runs a command, given by the arguments before its overrides, in the processes of the settings.

    Returns:
        Its exit code.
    """
    from ntm_rl.agents.launching import launch

    return launch(settings, _run, [*arguments, *options.overrides, *(["--json"] if options.json else [])])


def _run(arguments: Sequence[str]) -> int:
    from ntm_rl.agents.cli.main import main

    return main(arguments)


def print_result(result: "TrainingResult", *, as_json: bool) -> int:
    """Prints the result of a training, on the first rank, and returns the exit code."""
    code = 0 if result.stopped_by is None else SIGNAL_BASE + int(result.stopped_by)
    if not is_first():
        return code
    kind, run = result.kind, display_path(result.run)
    score = None if result.score is None else round(result.score, 5)
    if as_json:
        speed = {f"{kind.unit}s_per_second": round(result.steps_per_second, 1)}
        print_json({"run": run, kind.score: score, kind.counter: result.steps, **speed})
    else:
        ended = "Finished" if result.stopped_by is None else f"Stopped by {result.stopped_by.name}"
        next_command = "evaluate" if result.stopped_by is None else "resume"
        print_lines(
            f"{ended} after {result.steps:,} {kind.units} ({result.steps_per_second:,.0f} {kind.unit}s/s).",
            f"{kind.score_description}: {'none' if score is None else score}",
            f"Run: {run}",
            f"Next: ntm-rl {next_command} {shlex.quote(run)}",
        )
    return code
