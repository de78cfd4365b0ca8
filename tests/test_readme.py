"""The README's Python and YAML examples run as they stand, with fewer steps."""

import re
from pathlib import Path

import pytest
import yaml
from stable_baselines3.common.utils import set_random_seed

from ntm_rl.agents.cli import main

TEXT = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^ntm-rl (train|show) (\S+)([^#\n]*)", TEXT, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_python_examples_run(example, capsys):
    set_random_seed(0)
    exec(example.replace("300_000", "4_096").replace("n_eval_episodes=100", "n_eval_episodes=2"), {})


def test_there_are_examples_of_all_three_uses():
    assert [name for name in ("MemoryPPO(", "RecurrentPPO(", "Ntm(") if any(name in each for each in EXAMPLES)] == [
        "MemoryPPO(",
        "RecurrentPPO(",
        "Ntm(",
    ]


@pytest.mark.parametrize(("command", "config", "overrides"), COMMANDS)
def test_configs_and_overrides_in_the_commands_are_valid(command, config, overrides, capsys):
    assert main(["show", config, *overrides.split()]) == 0


def test_the_rl_zoo_example_is_yaml_that_names_our_policy():
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (settings,) = yaml.safe_load(block).values()
    module, _, name = settings["policy"].rpartition(".")
    assert hasattr(__import__(module, fromlist=[name]), name)
