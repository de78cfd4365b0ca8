"""`ntm-rl show`: print a resolved config, every key with its meaning, or a packaged search space."""

import argparse
from typing import Any

from ntm_rl.agents.cli.arguments import add_config, add_overrides
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_lines

EXAMPLES = (
    "ntm-rl show CartPole-v1",
    "ntm-rl show popgym/repeat_previous_easy",
    "ntm-rl show popgym/repeat_previous_easy --keys",
    "ntm-rl show popgym/repeat_previous_easy core=lstm ppo.learning_rate=1e-4",
    "ntm-rl show spaces/ntm",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = add_command(commands, "show", show_command, "print the resolved config", EXAMPLES, json=False)
    add_config(parser)
    add_overrides(parser)
    parser.add_argument("--keys", action="store_true", help="print every key with its type, default and description")


def show_command(options: argparse.Namespace) -> int:
    """Prints the config, its keys, or a search space."""
    from ntm_rl.agents.settings.loading import describe_keys, load_settings, to_yaml
    from ntm_rl.agents.settings.sources import is_space, read_space

    if is_space(options.config):
        print_lines(read_space(options.config)[0].rstrip("\n"))
        return 0
    settings = load_settings(options.config, options.overrides)
    if not options.keys:
        print_lines(to_yaml(settings).rstrip("\n"))
        return 0
    for key, kind, default, description in describe_keys(settings):
        print_lines(f"{key}: {kind} = {default}\n    {description}")
    return 0
