"""The files of the guide: the search space is valid, and the agent of the W&B sweep runs a valid command line."""

import re
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from command_line import done
from ntm_rl.agents.settings.loading import load_config
from ntm_rl.agents.sweeps.space import load_space

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "sweep.md"
SPACE, WANDB = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def test_the_search_space_is_valid(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    assert len(load_space(str(file), load_config("CartPole-v1")[0]).parameters) == 7


@pytest.mark.parametrize("macro", ["${args_no_hyphens}", "${args}"])
def test_the_agent_of_a_wandb_sweep_runs_a_valid_command(macro, capsys):
    sweep = yaml.safe_load(WANDB.replace("${args_no_hyphens}", macro))
    values = {"ppo.learning_rate": 0.00031, "memory.ntm.slots": 64}
    assert values.keys() == sweep["parameters"].keys()
    arguments = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    program, command, *words = [
        word
        for part in create_sweep_command(sweep["command"])
        for word in (arguments[part[2:-1]] if part.startswith("$") else [part])
    ]
    assert (program, command) == ("ntm-rl", "train")
    settings = yaml.safe_load(done(capsys, "show", *words))  # takes the arguments of `train`
    assert settings["ppo"]["learning_rate"] == 0.00031 and settings["memory"]["ntm"]["slots"] == 64
