"""`ntm-rl pull`: download an agent from the Hugging Face Hub as a run."""

import argparse
from typing import Any

from ntm_rl.agents.cli.arguments import path
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.settings.paths import display_path

EXAMPLES = (
    "ntm-rl pull USER/NAME FOLDER",
    "ntm-rl pull USER/NAME@v1 FOLDER",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "download an agent from the Hugging Face Hub as a run"
    parser = add_command(commands, "pull", pull_command, summary, EXAMPLES)
    parser.add_argument("repository", metavar="USER/NAME[@REVISION]", help="repository written by `ntm-rl push`")
    parser.add_argument("folder", type=path, metavar="FOLDER", help="folder of the run; must not exist")


def pull_command(options: argparse.Namespace) -> int:
    """Downloads the run and prints its folder."""
    from ntm_rl.agents.sharing.pull import pull
    from ntm_rl.agents.storage.hub import Repository

    folder = display_path(pull(Repository.parse(options.repository), options.folder).path)
    if options.json:
        print_json({"run": folder})
    else:
        print_lines(f"Run: {folder}", f"Next: ntm-rl evaluate {folder}")
    return 0
