"""`ntm-rl convert`: convert an SB3 zip to agent files."""

import argparse
from typing import Any

from ntm_rl.agents.cli.arguments import path
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_lines

EXAMPLES = (
    "ntm-rl convert agent.zip my_agent --trust",
    "ntm-rl convert ~/downloads/agent.zip agents/downloaded --trust",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "convert an SB3 zip to agent files, which load without pickle"
    parser = add_command(commands, "convert", convert_command, summary, EXAMPLES, json=False)
    parser.add_argument(
        "file", type=path, metavar="FILE.zip", help="file written by MemoryPPO.save or RecurrentPPO.save"
    )
    parser.add_argument("folder", type=path, metavar="FOLDER", help="output folder; must not exist")
    parser.add_argument(
        "--trust", action="store_true", help="required: loading an SB3 zip runs any code that it contains"
    )


def convert_command(options: argparse.Namespace) -> int:
    """Converts the file."""
    from ntm_rl.agents.ppo.sb3_zip import convert

    convert(options.file, options.folder, trust=options.trust)
    print_lines(f"{options.folder}: load it with ntm_rl.agents.load_agent")
    return 0
