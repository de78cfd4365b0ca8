"""The growth benchmark with tiny sizes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.speed import growth

TINY = {"slots": [3, 5], "width": [4, 8], "steps": [2, 3], "batch": [1, 2], "envs": [1, 2]}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(growth, "BASE", {"steps": 4, "batch": 2, "slots": 4, "width": 4})
    for name, values in TINY.items():
        monkeypatch.setitem(growth.AXES, name, replace(growth.AXES[name], values=values))


def test_all_axes_are_measured_and_plotted():
    threads = torch.get_num_threads()
    points = list(growth.growth(repeats=1))
    assert torch.get_num_threads() == threads
    assert [(point.axis, point.value) for point in points] == [(name, v) for name in TINY for v in TINY[name]]
    assert all(point.ours > 0 and point.peer > 0 for point in points)
    assert {point.axis for point in points if point.unit == "steps/s"} == {"envs"}
    by_axis = {name: [point.peer for point in points if point.axis == name] for name in TINY}
    assert [name for name, peers in by_axis.items() if len(set(peers)) == 1] == ["slots", "width"]
    growth.plot(points, Path("all.png"))
    with Image.open("all.png") as image:
        assert image.format == "PNG" and image.width > image.height > 300


def test_the_command_prints_and_plots_one_axis(capsys):
    assert main(["benchmark", "growth", "--only", "slots", "--plot", "slots.png"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["axis", "value", "NTM", "LSTM", "unit"]
    assert [line.split()[:2] for line in lines] == [["slots", "3"], ["slots", "5"]]
    assert Path("slots.png").read_bytes().startswith(b"\x89PNG")
    assert main(["benchmark", "growth", "--only", "batch", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [["axis", "value", "ours", "peer", "unit"]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["growth", "--only", "slot"], "only = 'slot': unknown axis; valid are slots, width, steps, batch, envs."),
        (["growth", "--plot", "growth.pdf"], "plot = 'growth.pdf': must end in .png"),
        (["growth", "--plot", "nowhere/growth.png"], "plot = 'nowhere/growth.png': no such folder 'nowhere'"),
    ],
)
def test_invalid_input_is_reported_before_anything_is_measured(arguments, message, capsys):
    assert main(["benchmark", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["benchmark", "growth", "--plot", "growth.png"]) == 2
    assert 'pip install "ntm-rl[plot]"' in capsys.readouterr().err
