"""`ntm-rl watch`: write a page that plays episodes beside the memory."""

import argparse
import webbrowser
from typing import Any

from ntm_rl.agents.cli.arguments import add_agent_options, add_run, count, path
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.settings.paths import display_path

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
    parser.add_argument(
        "--max-steps", type=count, default=500, metavar="N", help="limit of the steps of all episodes (default: 500)"
    )


def watch_command(options: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from ntm_rl.agents.inspection.watch import Options, watch
    from ntm_rl.agents.runs.run import Run

    run, *others = [Run.open(folder) for folder in (options.run, options.compare) if folder is not None]
    for each in (run, *others):
        each.require_trust(trust=options.trust)
    played = Options(options.episodes, options.seed, not options.stochastic, options.best, max_steps=options.max_steps)
    page = watch(run, others[0] if others else None, options.out, played)
    if options.json:
        agents = [
            {**origin.row(), "returns": returns} for origin, returns in zip(page.origins, page.returns, strict=True)
        ]
        print_json({"path": display_path(page.path), "bytes": page.size, "agents": agents})
    else:
        print_lines(f"{display_path(page.path)}: {page.size / 1e6:.2f} MB")
    if options.open:
        webbrowser.open(page.path.absolute().as_uri())
    return 0
