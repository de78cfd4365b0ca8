"""`ntm-rl inspect`: draw figures of a run."""

import argparse
from typing import Any

from ntm_rl.agents.cli.arguments import add_run
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.settings.paths import display_path

EXAMPLES = (
    "ntm-rl inspect RUN",
    "ntm-rl inspect RUN OTHER_RUN   # learning curves of two seeds in one figure",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "draw a run's learning curve, answers and memory use"
    parser = add_command(commands, "inspect", inspect_command, summary, EXAMPLES)
    add_run(parser)
    parser.add_argument(
        "others", nargs="*", metavar="RUN", help="further runs to draw in the learning curve, such as other seeds"
    )


def inspect_command(options: argparse.Namespace) -> int:
    """Draws the figures and prints their files."""
    from ntm_rl.agents.inspection.figures import inspect
    from ntm_rl.agents.runs.run import Run

    runs = [Run.open(folder) for folder in (options.run, *options.others)]
    for run in runs:
        run.require_trust(trust=options.trust)
    files = {name: display_path(file) for name, file in inspect(runs[0], runs[1:]).items()}
    if options.json:
        print_json(files)
    else:
        print_lines(*files.values())
    return 0
