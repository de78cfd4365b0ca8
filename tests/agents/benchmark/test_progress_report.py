"""Scores by steps and time, on constructed logs."""

from pathlib import Path

import numpy as np

from ntm_rl.agents.benchmark.cells import Result
from ntm_rl.agents.benchmark.progress_report import read_progress
from ntm_rl.agents.benchmark.report import render
from ntm_rl.agents.tracking.csv_log import write_table

COLUMNS = ["time/total_timesteps", "time/time_elapsed", "rollout/ep_rew_mean"]


def write_run(out: Path, core: str, seed: int, rows: list[tuple[int, int, float]]) -> Result:
    run = f"atari/Pong-1/{core}/run{seed}"
    (out / run).mkdir(parents=True)
    text = [dict(zip(COLUMNS, map(str, row), strict=True)) for row in rows]
    write_table(out / run / "progress.csv", COLUMNS, text)
    return Result("atari", "Pong-1", core, seed, 4000, 77_000, 18.0, 18.0, 100.0, run)


def test_seconds_of_a_resumed_training_add_up(tmp_path):
    rows = [(1000, 60, -20.0), (2000, 120, -10.0), (3000, 30, 0.0), (4000, 90, 10.0)]
    result = write_run(tmp_path, "ntm", 0, rows)
    np.testing.assert_array_equal(read_progress(tmp_path / result.run).seconds, [60, 120, 150, 210])


def test_the_report_of_atari_has_scores_by_steps_and_the_time_to_the_goal_and_no_mean_over_games(tmp_path):
    steps = [1000, 2000, 3000, 4000]
    scores = {0: [-20, -10, 18, 19], 1: [-20, 0, 10, 21], 2: [-20, -20, -20, -20]}
    results = [
        write_run(
            tmp_path,
            "ntm",
            seed,
            [(step, 60 * row, score) for row, (step, score) in enumerate(zip(steps, each, strict=True), 1)],
        )
        for seed, each in scores.items()
    ]
    lines = render("atari", results, {}, out=tmp_path).splitlines()
    assert "## Over all tasks" not in lines
    quarters = "-20.00 (-20.00 to -20.00) | -10.00 (-20.00 to 0.00) | 10.00 (-20.00 to 18.00) | 19.00 (-20.00 to 21.00)"
    assert f"| Pong-1 | ntm | 4,000 | {quarters} |" in lines
    hours = "0.07 (0.07 to 0.07)"
    assert f"| Pong-1 | ntm | {hours} | 18 | 3.50 (3.00 to 4.00); not reached by 1 of 3 |" in lines
