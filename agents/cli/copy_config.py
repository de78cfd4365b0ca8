"""`ntm-rl copy`: copy a packaged config or search space to a file that can be edited."""

import argparse
import shlex
from typing import Any

from ntm_rl.agents.cli.arguments import add_config, path
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_lines
from ntm_rl.errors import InputError

EXAMPLES = (
    "ntm-rl copy popgym/repeat_previous_easy my.yaml",
    "ntm-rl copy algorithmic/copy ~/configs/copy.yaml",
    "ntm-rl copy spaces/ntm space.yaml",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = add_command(
        commands, "copy", copy_command, "copy a packaged config or search space to edit it", EXAMPLES, json=False
    )
    add_config(parser)
    parser.add_argument("file", type=path, metavar="FILE", help="output file; must not exist")


def copy_command(options: argparse.Namespace) -> int:
    """Copies the config or search space."""
    from ntm_rl.agents.settings.sources import is_space, read_config, read_space
    from ntm_rl.agents.storage.files import write_atomically

    read = read_space if is_space(options.config) else read_config
    text, target = read(options.config)[0], options.file
    if target.exists():
        raise InputError(f"file = {str(target)!r}: exists already; choose another name or delete it")
    write_atomically(target, text.encode())
    command = "sweep CONFIG" if read is read_space else "train"
    print_lines(f"Next: ntm-rl {command} {shlex.quote(str(target))}")
    return 0
