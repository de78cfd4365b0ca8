"""`ntm-rl train` and `ntm-rl resume`."""

import argparse
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from ntm_rl.agents.cli.terminal import say
from ntm_rl.agents.runs.signals import SIGNAL_BASE
from ntm_rl.agents.settings.paths import shown

if TYPE_CHECKING:
    from ntm_rl.agents.runs.training import TrainingResult


def add(commands: Any) -> None:
    """Adds the commands to the parser."""
    train = commands.add_parser("train", help="train an agent", description="Train an agent.")
    train.set_defaults(command=train_command)
    train.add_argument("config", metavar="CONFIG", help="a YAML file or a packaged config (see `ntm-rl list configs`)")
    train.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="such as core=lstm or ppo.learning_rate=1e-4; `ntm-rl show CONFIG --keys` lists all keys",
    )
    summary = "resume an interrupted training, or train for longer"
    resume = commands.add_parser("resume", help=summary, description=f"{summary.capitalize()}.")
    resume.set_defaults(command=resume_command)
    resume.add_argument("run", metavar="RUN", help="the run directory")
    resume.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="such as total_timesteps=2000000")
    resume.add_argument("--trust", action="store_true", help="import the module that a run of another user names")
    for parser in (train, resume):
        parser.add_argument("--json", action="store_true", help="print the result as JSON")


def train_command(options: argparse.Namespace) -> int:
    """Trains in a new run directory and prints the result."""
    from ntm_rl.agents.settings.loading import load_settings, to_yaml, without_effect
    from ntm_rl.agents.training import train

    settings = load_settings(options.config, options.overrides)
    print(to_yaml(settings), file=sys.stderr)
    for key in without_effect(settings, options.overrides):
        print(f"note: {key}: has no effect, as core = {settings.core!r}", file=sys.stderr)
    return report(train(settings, options.config), as_json=options.json)


def resume_command(options: argparse.Namespace) -> int:
    """Resumes a run and prints the result."""
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.settings.loading import load_settings
    from ntm_rl.agents.training import resume

    run = Run.open(options.run)
    settings = load_settings(str(run.config_file), options.overrides)
    run.require_trust(settings, trust=options.trust)
    return report(resume(run, settings), as_json=options.json)


def report(result: "TrainingResult", *, as_json: bool) -> int:
    """Prints the result of a training and returns the exit code."""
    kind, run = result.kind, shown(result.run)
    score = None if result.score is None else round(result.score, 5)
    if as_json:
        speed = {f"{kind.unit}s_per_second": round(result.steps_per_second, 1)}
        say(json.dumps({"run": run, kind.score: score, kind.counter: result.steps, **speed}))
    else:
        ended = "Finished" if result.stopped_by is None else f"Stopped by {result.stopped_by.name}"
        next_command = "evaluate" if result.stopped_by is None else "resume"
        say(
            f"{ended} after {result.steps:,} {kind.units} ({result.steps_per_second:,.0f} {kind.unit}s/s).",
            f"{kind.score_description}: {'none' if score is None else score}",
            f"Run: {run}",
            f"Next: ntm-rl {next_command} {shlex.quote(run)}",
        )
    return 0 if result.stopped_by is None else SIGNAL_BASE + int(result.stopped_by)
