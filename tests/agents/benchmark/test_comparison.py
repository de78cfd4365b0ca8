"""The comparison of cores by normalised scores, on constructed results."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ntm_rl.agents import defaults
from ntm_rl.agents.benchmark.cells import Result
from ntm_rl.agents.benchmark.comparison import compare, find_forgotten, success_rates
from ntm_rl.agents.benchmark.normalization import references
from ntm_rl.agents.benchmark.report import write_benchmark_report
from ntm_rl.agents.benchmark.suites import find_suite
from ntm_rl.agents.benchmark.tables import task_table
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.tracking.csv_log import write_table

SUITE, DEFAULT = "general-dev", defaults.CORE
CHAIN, MAZE = "MemoryChain-20", "EndlessTMaze-fixed-5-3"
SCORES = {  # normalised, of seeds 0 to 2
    (CHAIN, DEFAULT): [0.2, 0.3, 0.4],
    (CHAIN, "lstm"): [0.5, 0.6, 0.7],  # above the default
    (CHAIN, "gru"): [0.3, 0.4, 0.5],  # overlaps
    (MAZE, DEFAULT): [0.9, 0.9, 0.9],
    (MAZE, "lstm"): [0.1, 0.2, 0.9],
    (MAZE, "gru"): [0.8, 0.7],  # one seed is not finished
}
COLUMNS = ["time/total_timesteps", "rollout/ep_rew_mean", "rollout/success_rate", "time/fps"]


def from_score(task: str, score: float) -> float:
    reference = references()[task]
    return reference.random + score * (reference.optimum.value - reference.random)


def result(task: str, core: str, seed: int, score: float, best: float = 0.0) -> Result:
    last, mmer = from_score(task, score), from_score(task, max(score, best))
    return Result(SUITE, task, core, seed, 250_000, 50_000, mmer, last, 900.0, f"{SUITE}/{task}/{core}/run{seed}")


RESULTS = [
    result(task, core, seed, score) for (task, core), scores in SCORES.items() for seed, score in enumerate(scores)
]


def write_run(out: Path, each: Result, returns: list[float], successes: list[float] | None = None) -> None:
    (out / each.run).mkdir(parents=True)
    (out / each.run / "cell.json").write_text(json.dumps(asdict(each)))
    rates = [""] * len(returns) if successes is None else successes
    rows = [
        {COLUMNS[0]: f"{65_536 * number}", COLUMNS[1]: f"{value}", COLUMNS[2]: f"{rate}", COLUMNS[3]: "900"}
        for number, (value, rate) in enumerate(zip(returns, rates, strict=True), 1)
    ]
    write_table(out / each.run / "progress.csv", COLUMNS, rows)


@pytest.fixture
def grid(tmp_path):
    for each in RESULTS:
        successes = [0.0, 0.25 * (1 + each.seed)] if each.task == MAZE else None
        write_run(tmp_path, each, [0.0, each.last], successes)
    return tmp_path


def interquartile_mean(scores: np.ndarray) -> float:
    ordered = sorted(scores.ravel().tolist())
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def test_means_over_tasks_are_of_normalised_scores_and_complete_seeds(grid):
    comparison = compare(RESULTS, grid)
    assert comparison.default == DEFAULT and [*comparison.final] == [DEFAULT, "lstm", "gru"]
    for core, seeds in ((DEFAULT, 3), ("lstm", 3), ("gru", 2)):
        matrix = np.array([SCORES[task, core][:seeds] for task in (CHAIN, MAZE)])
        assert comparison.final[core].estimate == pytest.approx(interquartile_mean(matrix))
        assert comparison.best[core] == pytest.approx(comparison.final[core])


def test_improvement_is_the_share_of_pairs_of_seeds_that_the_default_core_wins(grid):
    improvement = compare(RESULTS, grid).improvement
    assert improvement.keys() == {"lstm", "gru"}
    # The chain: none of 9 pairs; the maze: 6 of 9 and 3 ties.
    assert improvement["lstm"].estimate == pytest.approx((0 + (6 + 3 / 2) / 9) / 2)
    # The chain: 0.4 against 0.3, and one or two ties among the seeds 0 and 1 of the GRU; the maze: all.
    assert improvement["gru"].estimate == pytest.approx(((1 + 2 / 2) / 6 + 1) / 2)
    assert 0 <= improvement["lstm"].low <= improvement["lstm"].estimate <= improvement["lstm"].high <= 1


def test_a_deficit_needs_intervals_that_are_apart(grid):
    comparison = compare(RESULTS, grid)
    assert [each[:2] for each in comparison.deficits] == [(CHAIN, "lstm")]
    assert comparison.deficits[0].difference == pytest.approx(0.3)
    assert comparison.tasks[CHAIN][DEFAULT] == pytest.approx((0.3, 0.2, 0.4))  # of three seeds, the range
    single = [each for each in RESULTS if each.seed == 0]
    assert compare(single, grid).deficits == []  # one seed has no interval


def test_a_training_forgets_if_it_ends_far_below_a_good_epoch(tmp_path):
    cases = {  # best epoch, last 100 episodes, whether it forgot
        0: (1.0, 0.75, True),
        1: (1.0, 0.85, False),
        2: (0.4, 0.0, False),  # it had learned too little
        3: (0.6, 0.3, True),
    }
    results = []
    for seed, (best, final, _) in cases.items():
        each = result(CHAIN, "lstm", seed, 0.0, best)
        write_run(tmp_path, each, [from_score(CHAIN, value) for value in (1.0, final)])
        results.append(each)
    forgotten = find_forgotten(results, tmp_path)
    assert [*forgotten] == [results[seed].run for seed, (_, _, forgot) in cases.items() if forgot]
    assert forgotten[results[3].run] == pytest.approx((0.6, 0.3))


def test_success_rates_are_those_of_the_last_epoch(grid):
    assert success_rates(RESULTS, grid) == {
        MAZE: {DEFAULT: [0.25, 0.5, 0.75], "lstm": [0.25, 0.5, 0.75], "gru": [0.25, 0.5]}
    }


def test_the_report_has_all_tables(grid, capsys):
    report = write_benchmark_report(SUITE, grid)
    lines = (grid / "report.md").read_text().splitlines()
    assert f"| {MAZE} | 108 | 150,000 | {references()[MAZE].random:.3f} | 3 |" in lines
    row = next(line for line in lines if line.startswith(f"| {CHAIN} | 0.300"))
    assert row == f"| {CHAIN} | 0.300 (0.200 to 0.400) | 0.600 (0.500 to 0.700) | 0.400 (0.300 to 0.500) | lstm |"
    assert f"| {CHAIN} | lstm | 0.300 |" in lines
    assert f"| {MAZE} | 0.500 (0.250 to 0.750) | 0.500 (0.250 to 0.750) | 0.375 (0.250 to 0.500) |" in lines
    assert any("(0 of 17 trainings)" in line for line in lines)
    assert not any("games of POPGym" in line or "not normalised" in line for line in lines)
    assert report["comparison"]["default"] == DEFAULT
    assert report["interquartile_means"].keys() == {DEFAULT, "lstm", "gru"}
    assert main(["benchmark", "memory", "--suite", SUITE, "--out", str(grid), "--report-only", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["comparison"]["deficits"] == [[CHAIN, "lstm", pytest.approx(0.3)]]


def test_the_page_of_results_has_the_tasks_of_today():
    page = (Path(__file__).parents[3] / "docs" / "results" / "general.md").read_text()
    for suite in ("general-dev", "general-test"):
        assert task_table(find_suite(suite).tasks) in page, (
            f"insert the output of: ntm-rl benchmark tasks --suite {suite}"
        )


def test_the_report_has_the_mean_over_popgyms_games(tmp_path):
    for task, score in (("RepeatFirstEasy", 0.2), ("AutoencodeEasy", 0.4), (CHAIN, 1.0)):
        for seed in range(2):
            each = result(task, "lstm", seed, score + 0.2 * seed)
            write_run(tmp_path, each, [each.last])
    write_benchmark_report(SUITE, tmp_path)
    text = (tmp_path / "report.md").read_text()
    means = [
        np.mean([from_score("RepeatFirstEasy", low), from_score("AutoencodeEasy", low + 0.2)]) for low in (0.2, 0.4)
    ]
    assert f"| {np.mean(means):.3f} ({means[0]:.3f} to {means[1]:.3f}) |" in text
    assert "Mean over the 2 games of POPGym" in text
