"""`ntm-rl watch`: write a page that plays episodes beside the memory."""

import argparse
import webbrowser
from typing import Any

from ntm_rl.agents.cli.arguments import add_agent_options, add_run, count, parse_difficulty, path
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.settings.paths import display_path
from ntm_rl.errors import InputError

EXAMPLES = (
    "ntm-rl watch RUN --open",
    "ntm-rl watch RUN --best --episodes 3 --out page.html",
    "ntm-rl watch RUN --compare OTHER_RUN   # two agents side by side, with the same seed",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "write a page that plays episodes beside the memory"
    parser = add_command(commands, "watch", watch_command, summary, EXAMPLES)
    add_run(parser)
    parser.add_argument("--compare", metavar="RUN", help="another run, which is shown beside the first")
    parser.add_argument(
        "--out", type=path, metavar="FILE.html", help="output file (default: a new file in the run's watch/)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument("--episodes", type=count, default=1, metavar="N", help="episodes or sequences (default: 1)")
    add_agent_options(parser)
    parser.add_argument("--max-steps", type=count, default=500, metavar="N", help="most steps in total (default: 500)")
    parser.add_argument(
        "--difficulty",
        metavar="NAME=N[,NAME=N]",
        help="difficulty of a supervised task, such as length=50 (default: the hardest of the training)",
    )


def watch_command(options: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from ntm_rl.agents.inspection.episode import PlayOptions
    from ntm_rl.agents.inspection.watch import watch
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.settings.kinds import SUPERVISED

    run = Run.open(options.run)
    other = None if options.compare is None else Run.open(options.compare, "--compare")
    for each in (run, other):
        if each is not None:
            each.require_trust(trust=options.trust)
    if options.difficulty is not None and run.settings().kind is not SUPERVISED:
        raise InputError(f"--difficulty {options.difficulty}: only for runs of supervised tasks; leave it out")
    difficulty = None if options.difficulty is None else parse_difficulty(options.difficulty)
    played = PlayOptions(
        options.episodes, options.seed, not options.stochastic, options.best, options.max_steps, difficulty
    )
    page = watch(run, played, compare=other, out=options.out)
    if options.json:
        agents = [{**origin.row(), "scores": scores} for origin, scores in zip(page.origins, page.scores, strict=True)]
        print_json({"path": display_path(page.path), "bytes": page.size, "agents": agents})
    else:
        print_lines(f"{display_path(page.path)}: {page.size / 1e6:.2f} MB")
    if options.open:
        webbrowser.open(page.path.absolute().as_uri())
    return 0
