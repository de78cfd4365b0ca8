"""The speed benchmark on a device, on the CPU and with tiny sizes."""

import json
import math

import pytest
import torch

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.speed import devices
from ntm_rl.agents.speed.device_report import append_tests, describe_device
from ntm_rl.agents.speed.rows import Comparison, measure
from ntm_rl.agents.speed.timing import alternate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    sizes = {"STEPS": 3, "BATCH": 2, "INPUTS": 4, "UNITS": 6, "ENVS": (1, 2), "FIRST_ENVS": 2, "SLOTS": (4, 8)}
    for name, size in {**sizes, "ROLLOUT": 128, "ROW_SECONDS": 0.0, "CORES": ("ntm", "lstm")}.items():
        monkeypatch.setattr(devices, name, size)


def test_sequences_and_trainings_are_measured_beside_their_peers(capsys, tmp_path):
    assert main(["benchmark", "speed", "--device", "cpu", "--report", "report.md", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(devices.device_comparisons(CPU))
    assert {row["name"] for row in rows} >= {"sequence_ntm_4_slots_eager", "ppo_ntm_2_envs_8_slots", "ppo_lstm_1_envs"}
    assert all(row["ours"] > 0 and row["peer"] > 0 and row["goal"] is None for row in rows)
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("## Speed on cpu\n") and f"torch {torch.__version__}" in report
    assert [line.split()[1] for line in report.splitlines() if line.startswith("| ")] == [
        "row",
        *(r["name"] for r in rows),
    ]


def test_a_row_that_fails_is_reported_and_the_others_are_measured(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(devices, "make_training", fail)
    rows = list(devices.device_speed(CPU, repeats=1))
    failed = [row for row in rows if row.name.startswith("ppo")]
    assert {row.unit for row in failed} == {"RuntimeError: CUDA out of memory"}
    assert all(math.isnan(row.ratio) for row in failed) and any(row.ratio > 0 for row in rows)


def test_no_row_begins_after_the_time(capsys):
    rows = measure({"a": Comparison(lambda _: (1.0, 2.0, "s"))}, seconds=-1)
    assert list(rows) == [] and "note: a is skipped: the -1 s of the benchmark are over" in capsys.readouterr().err


def test_repeats_end_at_the_limit_and_warm_ups_are_not_measured():
    calls, times = [], iter(range(100))
    assert alternate(9, lambda: calls.append(0), clock=lambda: next(times), warm_ups=2, limit=2.5) == [1]
    assert len(calls) == 2 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "gpu"], "device = 'gpu': must be cpu, cuda or cuda:N"),
        (["--device", "meta"], "device = 'meta': must be cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "device = 'cuda:99': not available, as torch sees"),
        (["--report", "a.md"], "--report: needs --device"),
        (["--device", "cpu", "--only", "ppo"], "only = 'ppo': unknown row; valid are sequence_ntm_4_slots,"),
        (["--device", "cpu", "--report", "no/a.md"], "report = 'no/a.md': cannot be written: No such file"),
    ],
)
def test_invalid_input_is_one_line(options, message, capsys):
    assert main(["benchmark", "speed", *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


def test_failed_tests_are_in_the_report_with_their_messages(tmp_path):
    append_tests(tmp_path / "a.md", CPU, {"passed": 3, "failed": 1}, {"test_a.py::test_b": "assert 1 == 2"})
    assert "3 passed, 1 failed\n\n### test_a.py::test_b\n\n```\nassert 1 == 2\n```\n" in (tmp_path / "a.md").read_text()


def test_a_gpu_is_described_with_its_versions(monkeypatch):
    class Properties:
        name, total_memory, major, minor = "A GPU", 80 * 2**30, 9, 0

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    first, second = describe_device(torch.device("cuda"))
    assert first == "A GPU, 80 GiB, compute capability 9.0"
    assert "cuDNN" in second and "driver unknown" in second and f"torch {torch.__version__}" in second
