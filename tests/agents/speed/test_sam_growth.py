"""The benchmark of the sparse access memory with tiny sizes."""

import json

import pytest

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.speed import sam_growth


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(sam_growth, "SLOTS", (8,))
    monkeypatch.setattr(sam_growth, "_measure_in_process", sam_growth.measure)


def test_the_command_prints_time_and_memory_of_both(capsys):
    assert main(["benchmark", "sparse"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["slots", "SAM,", "ms", "NTM,", "ms", "SAM,", "MiB", "NTM,", "MiB"]
    slots, *costs = line.split()
    assert slots == "8" and float(costs[0]) > 0 and float(costs[1]) > 0
    assert main(["benchmark", "sparse", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert list(row) == ["slots", "ours", "peer", "ours_peak", "peer_peak"]


def test_time_and_memory_are_measured_in_a_separate_process(monkeypatch):
    monkeypatch.undo()
    milliseconds, peak = sam_growth._measure_in_process("sam", 65_536, 1)
    assert milliseconds > 0
    # About five copies of four memories of 4 MiB; storing 32 steps would take 512 MiB.
    assert 16 < peak < 256
