"""`ntm-rl list`: list environments, memory cores, packaged configs or search spaces."""

import argparse
import sys
from typing import Any

import ntm_rl
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.errors import InputError

EXAMPLES = (
    "ntm-rl list configs",
    "ntm-rl list cores --json",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    summary = "list environments, memory cores, packaged configs or search spaces"
    parser = add_command(commands, "list", list_command, summary, EXAMPLES)
    parser.add_argument("kind", choices=("envs", "cores", "configs", "spaces"))


def list_command(options: argparse.Namespace) -> int:
    """Prints the names."""
    lists = {"envs": _envs, "cores": _cores, "configs": _configs, "spaces": _spaces}
    names: list[str] = lists[options.kind]()
    if options.json:
        print_json(names)
    else:
        print_lines(*names)
    return 0


def _envs() -> list[str]:
    import gymnasium

    from ntm_rl.envs.factory import import_family
    from ntm_rl.envs.names import FAMILIES, is_legacy_atari

    for prefix in FAMILIES:
        try:
            import_family(prefix)
        except InputError as error:
            print(f"not listed: {error}", file=sys.stderr)
    return sorted(env_id for env_id in gymnasium.registry if not is_legacy_atari(env_id))


def _cores() -> list[str]:
    return list(ntm_rl.core_names())


def _configs() -> list[str]:
    from ntm_rl.agents.settings.sources import config_names

    return config_names()


def _spaces() -> list[str]:
    from ntm_rl.agents.settings.sources import space_names

    return space_names()
