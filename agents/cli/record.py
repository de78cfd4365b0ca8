"""`ntm-rl record`: record a video of a trained agent's episodes."""

import argparse
from typing import Any

from ntm_rl.agents.cli.arguments import add_agent_options, add_run, count, path
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.settings.paths import display_path

EXAMPLES = (
    "ntm-rl record RUN",
    "ntm-rl record RUN --best --episodes 3 --out video.mp4",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "record a video of a trained agent's episodes"
    parser = add_command(commands, "record", record_command, summary, EXAMPLES)
    add_run(parser)
    parser.add_argument(
        "--out", type=path, metavar="FILE.mp4", help="output file (default: a new file in the run's videos/)"
    )
    parser.add_argument("--episodes", type=count, default=1, metavar="N", help="number of episodes (default: 1)")
    add_agent_options(parser)
    parser.add_argument(
        "--max-steps", type=count, default=5000, metavar="N", help="most steps in total (default: 5000)"
    )


def record_command(options: argparse.Namespace) -> int:
    """Records a video and prints its path."""
    from ntm_rl.agents.inspection.video import record
    from ntm_rl.agents.runs.run import Run

    run = Run.open(options.run)
    run.require_trust(trust=options.trust)
    result = record(
        run,
        options.out,
        options.episodes,
        seed=options.seed,
        deterministic=not options.stochastic,
        best=options.best,
        max_steps=options.max_steps,
    )
    if options.json:
        episodes = {"returns": result.returns, "steps": result.steps}
        print_json({"path": display_path(result.path), **result.origin.row(), **episodes})
    else:
        returns = f"returns {', '.join(f'{each:g}' for each in result.returns)}" if result.returns else "no return"
        ended = f"{len(result.returns)} of {options.episodes} episodes ended"
        print_lines(f"{display_path(result.path)}: {result.steps:,} steps, {ended}, {returns}")
    return 0
