"""The report of the memory benchmark: Markdown tables and PNG figures."""

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ntm_rl.agents.benchmark.cells import Result, read_results
from ntm_rl.agents.benchmark.comparison import Comparison, compare
from ntm_rl.agents.benchmark.normalization import is_normalized
from ntm_rl.agents.benchmark.normalized_report import normalized_sections
from ntm_rl.agents.benchmark.popgym_scores import POPGYM
from ntm_rl.agents.benchmark.progress_report import progress_sections
from ntm_rl.agents.benchmark.scores import Interval, interquartile_means, read_curve, read_success_rate, require_rliable
from ntm_rl.agents.benchmark.suites import find_suite
from ntm_rl.agents.benchmark.tables import NONE, cells_of, complete, cores_of, markdown, seeds_of, spread, tasks_of
from ntm_rl.agents.inspection.plotting import curve_marker, require_matplotlib, save_png
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.agents.tracking.csv_log import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT, TABLE, CURVES, INTERVALS = "report.md", "results.csv", "curves.png", "intervals.png"
POINTS = 200  # of a plotted curve


def check_report() -> None:
    """Raises an `InputError` if a package that the report needs is missing."""
    require_rliable()
    require_matplotlib("the report")


def write_benchmark_report(suite: str, out: Path) -> dict[str, Any]:
    """Writes `report.md`, its figures and `results.csv` into a grid's folder, from the finished trainings.

    Returns:
        The report as JSON values: the cells, the interquartile mean and interval of each core, and the comparison of
        normalised scores or None.

    Raises:
        InputError: no training is finished, or rliable or matplotlib is not installed.
    """
    check_report()
    results = read_results(suite, out)
    comparison = compare(results, out) if is_normalized(suite) else None
    overall = comparison.final if comparison else {} if find_suite(suite).has_own_scales else aggregate(results)
    save_png(draw_curves(results, out), out / CURVES)
    if overall:
        save_png(draw_intervals(overall), out / INTERVALS)
    rows = [_row(each, out) for each in results]
    write_table(out / TABLE, list(rows[0]), rows)
    write_atomically(out / REPORT, render(suite, results, overall, comparison, out).encode())
    return {
        "suite": suite,
        "report": str(out / REPORT),
        "interquartile_means": {core: each._asdict() for core, each in overall.items()},
        "comparison": None if comparison is None else asdict(comparison),
        "cells": [vars(result) for result in results],
    }


def _row(result: Result, out: Path) -> dict[str, Any]:
    """Returns a training's row of `results.csv`."""
    run = out / result.run
    success = read_success_rate(run)
    last = {"last_100_episodes": float(read_curve(run).returns[-1]), "success_rate": "" if success is None else success}
    return asdict(result) | last


def aggregate(results: Sequence[Result]) -> dict[str, Interval]:
    """Returns the interquartile mean of the MMER over tasks and seeds of each core; see `complete`."""
    return interquartile_means(complete(results, lambda each: each.mmer))


def render(
    suite: str,
    results: Sequence[Result],
    overall: Mapping[str, Interval],
    comparison: Comparison | None = None,
    out: Path = Path(),
) -> str:
    """Returns the report as Markdown.

    Args:
        suite: Name of the suite.
        results: Results of the finished trainings.
        overall: Interquartile means to plot; see `aggregate`.
        comparison: Comparison of normalised scores; None: the scores are not normalised.
        out: Folder of the grid.
    """
    return "\n\n".join(_sections(suite, results, overall, comparison, out)) + "\n"


def _sections(
    suite: str, results: Sequence[Result], overall: Mapping[str, Interval], comparison: Comparison | None, out: Path
) -> Iterable[str]:
    tasks, cores, seeds = tasks_of(results), cores_of(results), seeds_of(results)
    yield f"# {suite}: {find_suite(suite).title}"
    yield (
        f"Trainings by MemoryPPO: {len(results)}. Tasks: {len(tasks)}. Cores: {', '.join(cores)}. Seeds: "
        f"{', '.join(map(str, seeds))}. Written on {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} processors of "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}. The runs are in "
        f"`{suite}/TASK/CORE/`."
    )
    if comparison is not None:
        yield from normalized_sections(suite, results, comparison)
        yield "## Highest mean return"
    yield (
        "The score is POPGym's MMER: the maximum over training of the mean episodic return per epoch of about 65,536 "
        "steps, with actions sampled; the mean over seeds, with the lowest and highest seed in brackets."
    )
    yield _table(results, lambda each: each.mmer, published=True)
    yield from _over_all_tasks(overall) if comparison is None else _popgym_means(suite, results)
    if overall:
        yield f"![Interquartile means with intervals]({INTERVALS})"
    yield "## At the end of training"
    yield "Mean episodic return of the last epoch; unlike a maximum, it does not reward noise."
    yield _table(results, lambda each: each.last)
    if find_suite(suite).has_own_scales:
        yield from progress_sections(suite, results, out)
    yield "## Learning curves"
    yield "Mean return of the last 100 episodes: median and range over seeds."
    yield f"![Learning curves]({CURVES})"
    yield "## Size and speed"
    yield "Parameters of the memory core, and environment steps per second (median over seeds)."
    yield markdown(["task", "steps", *cores], [_size_and_speed(task, results) for task in tasks])


def _popgym_means(suite: str, results: Sequence[Result]) -> Iterable[str]:
    """Yields the mean MMER over the suite's games of POPGym."""
    names = [task.name for task in find_suite(suite).tasks if task.config.startswith("popgym-")]
    games = [each for each in results if each.task in names]
    means = {core: scores.mean(axis=1).tolist() for core, scores in complete(games, lambda each: each.mmer).items()}
    if means:
        yield f"Mean over the {len(tasks_of(games))} games of POPGym: range over seeds in brackets."
        yield markdown([*means], [[spread(each) for each in means.values()]])


def _over_all_tasks(overall: Mapping[str, Interval]) -> Iterable[str]:
    if not overall:
        return
    yield "## Over all tasks"
    yield (
        "Interquartile mean of the scores over tasks and seeds, with stratified bootstrap 95% intervals (rliable; "
        "Agarwal et al. 2021). Scores are not normalised: all returns lie between -1 and 1."
    )
    rows = [[core, f"{each.estimate:.3f}", f"{each.low:.3f} to {each.high:.3f}"] for core, each in overall.items()]
    yield markdown(["core", "interquartile mean", "95% interval"], rows)


def _table(results: Sequence[Result], score: Callable[[Result], float], published: bool = False) -> str:
    tasks, cores = tasks_of(results), cores_of(results)
    reference = published and any(task in POPGYM for task in tasks)
    header = ["task", *cores, *(["POPGym's GRU", "POPGym's best"] if reference else [])]
    rows = []
    for task in tasks:
        row = [task, *(spread([score(each) for each in cells_of(results, task, core)]) for core in cores)]
        if reference and task in POPGYM:
            row += [f"{POPGYM[task].gru:.3f}", f"{POPGYM[task].best:.3f} ({POPGYM[task].best_model})"]
        rows.append(row + [NONE] * (len(header) - len(row)))
    note = "\n\nPOPGym's columns: Morad et al. 2023, table 3, after 15 million steps, 3 seeds." if reference else ""
    return markdown(header, rows) + note


def _size_and_speed(task: str, results: Sequence[Result]) -> list[str]:
    row = [task, f"{max(each.timesteps for each in results if each.task == task):,}"]
    for core in cores_of(results):
        cells = cells_of(results, task, core)
        speed = np.median([each.steps_per_second for each in cells]) if cells else 0
        row.append(f"{cells[0].parameters:,}; {speed:,.0f}/s" if cells else NONE)
    return row


def draw_curves(results: Sequence[Result], out: Path) -> "Figure":
    """Plots the learning curves, one panel per task."""
    from matplotlib.figure import Figure

    tasks, cores = tasks_of(results), cores_of(results)
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    for place, task in enumerate(tasks, 1):
        panel = figure.add_subplot(rows, columns, place)
        for number, core in enumerate(cores):
            curves = [read_curve(out / each.run) for each in cells_of(results, task, core)]
            if not curves:
                continue
            steps = np.linspace(max(each.steps[0] for each in curves), min(each.steps[-1] for each in curves), POINTS)
            block = np.array([np.interp(steps, *each) for each in curves])
            middle, marker = np.median(block, axis=0), curve_marker(steps)
            panel.plot(steps / 1e6, middle, color=f"C{number}", label=core, linewidth=1.4, marker=marker)
            panel.fill_between(
                steps / 1e6, block.min(axis=0), block.max(axis=0), color=f"C{number}", alpha=0.2, linewidth=0
            )
        panel.set_title(task, size=9)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
        if place == 1:
            panel.legend(fontsize=7)
        if place > len(tasks) - columns:
            panel.set_xlabel("million environment steps", size=8)
    return figure


def draw_intervals(overall: Mapping[str, Interval]) -> "Figure":
    """Plots the interquartile means and their intervals, one row per core."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.8 + 0.4 * len(overall)), layout="constrained")
    panel = figure.add_subplot()
    for number, each in enumerate(overall.values()):
        panel.plot([each.low, each.high], [number, number], color=f"C{number}", linewidth=9, alpha=0.4)
        panel.plot(each.estimate, number, "k|", markersize=14)
    panel.set_yticks(range(len(overall)), list(overall))
    panel.set_ylim(len(overall) - 0.5, -0.5)
    panel.set_xlabel("interquartile mean of the scores", size=9)
    panel.grid(axis="x", alpha=0.3)
    return figure
