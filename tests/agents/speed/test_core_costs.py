"""The costs of the cores, with one repeat."""

import json

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.speed.core_costs import CoreCost, core_costs, table
from ntm_rl.cores.matching import matched_options
from ntm_rl.cores.registry import core_names, make_core


def test_every_core_is_measured_at_about_the_same_parameters():
    costs = core_costs(repeats=1)
    assert tuple(cost.core for cost in costs) == core_names()
    for cost in costs:
        options = matched_options(cost.core, 64, 100_000)
        core = make_core(cost.core, 64, **options)
        assert cost.hidden_size == options["hidden_size"]
        assert cost.parameters == sum(each.numel() for each in core.parameters())
        assert abs(cost.parameters - 100_000) <= 10_000 and cost.state_size == core.state_size
        assert cost.training > 0 and cost.rollout > 0
    by_name = {cost.core: cost for cost in costs}
    assert by_name["feedforward"].training < by_name["gtrxl"].training


def test_the_table_is_markdown():
    text = table([CoreCost("gru", 7, 1234, 8, 12.3, 4.6)])
    assert text.splitlines()[2] == "| gru | 7 | 1,234 | 8 | 12 | 5 |"


def test_the_command_prints_one_core_or_json(capsys):
    assert main(["benchmark", "cores", "--only", "feedforward"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("| feedforward | 285 |")
    assert main(["benchmark", "cores", "--only", "elman", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["core"] == "elman" and row["state_size"] == row["hidden_size"] + 1


def test_an_unknown_core_is_one_line(capsys):
    assert main(["benchmark", "cores", "--only", "lstn"]) == 2
    assert "core = 'lstn': unknown core" in capsys.readouterr().err
