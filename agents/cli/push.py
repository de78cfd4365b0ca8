"""`ntm-rl push`: upload a run's agent to the Hugging Face Hub."""

import argparse
from typing import Any

from ntm_rl.agents.cli.arguments import add_run, count, seed
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines

EXAMPLES = (
    "ntm-rl push RUN USER/NAME",
    "ntm-rl push RUN USER/NAME --best --private",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "upload a run's agent to the Hugging Face Hub"
    parser = add_command(commands, "push", push_command, summary, EXAMPLES)
    add_run(parser)
    parser.add_argument("repository", metavar="USER/NAME", help="repository; created if it does not exist")
    parser.add_argument("--best", action="store_true", help="use the best agent of the training instead of the last")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--episodes", type=count, default=100, metavar="N", help="episodes of the evaluation (default: 100)"
    )
    parser.add_argument("--seed", type=seed, default=10_000, help="seed of the evaluation (default: 10000)")


def push_command(options: argparse.Namespace) -> int:
    """Evaluates and uploads the agent, and prints the URL."""
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.sharing.push import push
    from ntm_rl.agents.storage.hub import Repository

    repository = Repository.parse(options.repository)
    run = Run.open(options.run)
    run.require_trust(trust=options.trust)
    url, results = push(
        run, repository, best=options.best, private=options.private, episodes=options.episodes, seed=options.seed
    )
    if options.json:
        print_json({"url": url, **results})
    else:
        print_lines(f"{url}: mean reward {results['mean_reward']:.2f} +/- {results['std_reward']:.2f}")
    return 0
