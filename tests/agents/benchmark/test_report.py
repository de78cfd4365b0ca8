"""The report of the memory benchmark, on constructed results."""

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from ntm_rl.agents.benchmark.cells import Result
from ntm_rl.agents.benchmark.report import aggregate, render, write_benchmark_report
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.tracking.csv_log import write_table

SUITE = "popgym-small"


def result(task: str, core: str, seed: int, score: float) -> Result:
    speed = 1000.0 * (seed + 1)
    return Result(SUITE, task, core, seed, 8192, 77_000, score, score - 0.5, speed, f"{SUITE}/{task}/{core}/run{seed}")


RESULTS = [
    result("RepeatPreviousMedium", "ntm", 0, 0.5),
    result("RepeatPreviousMedium", "ntm", 1, 0.25),
    result("RepeatPreviousMedium", "lstm", 0, -0.25),
    result("ConcentrationEasy", "ntm", 0, 0.0),
    result("ConcentrationEasy", "ntm", 1, 0.5),
]


def write_runs(out: Path) -> None:
    for number, each in enumerate(RESULTS):
        folder = out / each.run
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps(asdict(each)))
        rows = [{"time/total_timesteps": f"{step}", "rollout/ep_rew_mean": f"{number / 8}"} for step in (4096, 8192)]
        write_table(folder / "progress.csv", ["time/total_timesteps", "rollout/ep_rew_mean"], rows)


def test_tables_have_means_ranges_and_published_scores():
    lines = render(SUITE, RESULTS, aggregate(RESULTS)).splitlines()
    assert lines[0] == "# popgym-small: Eight games of POPGym (Morad et al. 2023)"
    assert lines[2].startswith("Trainings by MemoryPPO: 5. Tasks: 2. Cores: ntm, lstm. Seeds: 0, 1. Written on ")
    tables = [line for line in lines if line.startswith("|") and "---" not in line]
    assert tables == [
        "| task | ntm | lstm | POPGym's GRU | POPGym's best |",
        "| RepeatPreviousMedium | 0.375 (0.250 to 0.500) | -0.250 | -0.315 | 0.789 (LMU) |",
        "| ConcentrationEasy | 0.250 (0.000 to 0.500) | – | – | – |",  # noqa: RUF001
        "| core | interquartile mean | 95% interval |",
        "| ntm | 0.375 | 0.125 to 0.500 |",  # the middle two of 0, 0.25, 0.5, 0.5
        "| task | ntm | lstm |",
        "| RepeatPreviousMedium | -0.125 (-0.250 to 0.000) | -0.750 |",
        "| ConcentrationEasy | -0.250 (-0.500 to 0.000) | – |",  # noqa: RUF001
        "| task | steps | ntm | lstm |",
        "| RepeatPreviousMedium | 8,192 | 77,000; 1,500/s | 77,000; 1,000/s |",
        "| ConcentrationEasy | 8,192 | 77,000; 1,500/s | – |",  # noqa: RUF001
    ]


def test_the_mean_of_a_core_uses_the_seeds_that_all_its_tasks_have():
    assert aggregate([*RESULTS, result("ConcentrationEasy", "lstm", 1, 0.0)]).keys() == {"ntm"}
    overall = aggregate([*RESULTS, result("ConcentrationEasy", "lstm", 0, 0.75)])
    assert overall["lstm"].estimate == pytest.approx(0.25)
    assert aggregate(RESULTS[2:4]) == {}


def test_a_suite_without_published_scores_has_no_column_for_them():
    results = [Result("tmaze", "length-20", "gru", 0, 8192, 77_000, 0.5, 0.5, 1000.0, "tmaze/length-20/gru/run")]
    text = render("tmaze", results, {})
    assert "POPGym's GRU" not in text and "| length-20 | 0.500 |" in text and "Over all tasks" not in text


def test_report_only_writes_the_report_of_finished_trainings(tmp_path, capsys):
    write_runs(tmp_path)
    assert main(["benchmark", "memory", "--suite", SUITE, "--out", str(tmp_path), "--report-only"]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "report.md").read_text()
    report = write_benchmark_report(SUITE, tmp_path)
    assert len(report["cells"]) == 5 and report["interquartile_means"].keys() == {"ntm"}
    with Image.open(tmp_path / "curves.png") as curves, Image.open(tmp_path / "intervals.png") as intervals:
        assert curves.width > 500 and intervals.width > 400


def test_results_csv_has_a_row_per_training(tmp_path):
    write_runs(tmp_path)
    run = tmp_path / RESULTS[4].run / "progress.csv"
    columns = ["time/total_timesteps", "rollout/ep_rew_mean", "rollout/success_rate"]
    write_table(run, columns, [dict(zip(columns, ("8192", "0.5", rate), strict=True)) for rate in ("0.25", "0.75")])
    write_benchmark_report(SUITE, tmp_path)
    with (tmp_path / "results.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    found = {(row["task"], row["core"], row["seed"]): row for row in rows}
    assert len(found) == len(rows) == 5
    for number, each in enumerate(RESULTS):
        row = found[each.task, each.core, str(each.seed)]
        assert {key: row[key] for key in asdict(each)} == {key: str(value) for key, value in asdict(each).items()}
        assert float(row["last_100_episodes"]) == number / 8
        assert row["success_rate"] == ("0.5" if number == 4 else "")


def test_curves_show_the_median_and_the_range_of_the_seeds(tmp_path):
    from ntm_rl.agents.benchmark.report import draw_curves

    write_runs(tmp_path)
    figure = draw_curves(RESULTS, tmp_path)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["RepeatPreviousMedium", "ConcentrationEasy"]
    ntm, lstm = first.get_lines()
    assert (set(ntm.get_ydata()), set(lstm.get_ydata())) == ({0.0625}, {0.25})  # the median of 0 and 1/8
    heights = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 0.125)
    assert len(second.get_lines()) == 1


@pytest.mark.parametrize(("package", "names"), [("rliable", "stats"), ("matplotlib", "plot")])
def test_a_missing_package_is_reported_before_anything_is_trained(package, names, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "rliable.library", raising=False)
    out = tmp_path / "out"
    assert main(["benchmark", "memory", "--suite", "tmaze", "--out", str(out)]) == 2
    assert f'pip install "ntm-rl[{names}]"' in capsys.readouterr().err
    assert not out.exists()
