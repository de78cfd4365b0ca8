"""`--help` of every command: what it does, and examples that are valid commands."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ntm_rl.agents.cli.main import main, make_parser
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.sources import is_space, read_space


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each
                yield from parsers(each)


COMMANDS = {parser.prog: parser for parser in parsers(make_parser())}
EXAMPLES = [
    (name, line.partition("  #")[0].strip())
    for name, parser in COMMANDS.items()
    for line in (parser.epilog or "").splitlines()[1:]
]


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert {"train", "resume", "evaluate", "record", "inspect", "list", "show", "copy", "convert"} <= {*listed}
    assert {*listed} >= {name.split()[1] for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_a_sentence_and_at_least_two_examples(name, capsys):
    with pytest.raises(SystemExit):
        main([*name.split()[1:], "--help"])
    text = capsys.readouterr().out
    assert f"\n\n{COMMANDS[name].description}\n\n" in text and COMMANDS[name].description.endswith(".")
    assert len([line for line in text.splitlines() if line.startswith(f"  {name} ") or line == f"  {name}"]) >= 2


@pytest.mark.parametrize(("name", "line"), EXAMPLES)
def test_every_example_is_a_valid_command(name, line):
    assert f"{line} ".startswith(f"{name} ")
    options = make_parser().parse_args(shlex.split(line)[1:])
    assert callable(options.command)
    if hasattr(options, "config") and is_space(options.config):
        read_space(options.config)
    elif hasattr(options, "config"):
        load_settings(options.config, getattr(options, "overrides", ()))


def test_help_does_not_import_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ntm_rl", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "train" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "ntm_rl.agents.cli.train" in imported and not {"torch", "stable_baselines3", "wandb"} & imported


def test_a_script_that_imports_the_package_can_name_the_policies():
    code = "import ntm_rl.agents; from sb3_contrib import RecurrentPPO as P; print('MlpNtmPolicy' in P.policy_aliases)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
