"""The report of the memory benchmark: Markdown tables and PNG figures."""

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ntm_rl.agents.benchmark.cells import Result, read_results
from ntm_rl.agents.benchmark.popgym_scores import POPGYM
from ntm_rl.agents.benchmark.scores import Interval, interquartile_means, read_curve, require_rliable
from ntm_rl.agents.benchmark.suites import find_suite
from ntm_rl.agents.inspection.plotting import curve_marker, require_matplotlib, save_png
from ntm_rl.agents.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT, CURVES, INTERVALS = "report.md", "curves.png", "intervals.png"
POINTS = 200  # of a plotted curve
NONE = "–"  # noqa: RUF001  (dash of an empty cell)


def check_report() -> None:
    """Raises an `InputError` if a package that the report needs is missing."""
    require_rliable()
    require_matplotlib("the report")


def write_benchmark_report(suite: str, out: Path) -> dict[str, Any]:
    """Writes `report.md` and its figures into a grid's folder, from the finished trainings.

    Returns:
        The report as JSON values: the cells, and the interquartile mean and interval of each core.

    Raises:
        InputError: no training is finished, or rliable or matplotlib is not installed.
    """
    check_report()
    results = read_results(suite, out)
    overall = aggregate(results)
    save_png(draw_curves(results, out), out / CURVES)
    if overall:
        save_png(draw_intervals(overall), out / INTERVALS)
    write_atomically(out / REPORT, render(suite, results, overall).encode())
    return {
        "suite": suite,
        "report": str(out / REPORT),
        "interquartile_means": {core: each._asdict() for core, each in overall.items()},
        "cells": [vars(result) for result in results],
    }


def aggregate(results: Sequence[Result]) -> dict[str, Interval]:
    """Returns the interquartile mean over tasks and seeds of each core that has results for all tasks.

    Only the seeds that are finished for all tasks of a core count.
    """
    tasks, cores = _tasks(results), _cores(results)
    scores = {(each.core, each.task, each.seed): each.mmer for each in results}
    complete = {}
    for core in cores:
        seeds = [seed for seed in _seeds(results) if all((core, task, seed) in scores for task in tasks)]
        if seeds:
            complete[core] = [[scores[core, task, seed] for task in tasks] for seed in seeds]
    return interquartile_means(complete) if complete else {}


def render(suite: str, results: Sequence[Result], overall: Mapping[str, Interval]) -> str:
    """Returns the report as Markdown."""
    return "\n\n".join(_sections(suite, results, overall)) + "\n"


def _sections(suite: str, results: Sequence[Result], overall: Mapping[str, Interval]) -> Iterable[str]:
    tasks, cores, seeds = _tasks(results), _cores(results), _seeds(results)
    yield f"# {suite}: {find_suite(suite).title}"
    yield (
        f"Trainings by MemoryPPO: {len(results)}. Tasks: {len(tasks)}. Cores: {', '.join(cores)}. Seeds: "
        f"{', '.join(map(str, seeds))}. Written on {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} processors of "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}. The runs are in "
        f"`{suite}/TASK/CORE/`."
    )
    yield (
        "The score is POPGym's MMER: the maximum over training of the mean episodic return per epoch of about 65,536 "
        "steps, with actions sampled; the mean over seeds, with the lowest and highest seed in brackets."
    )
    yield _table(results, lambda each: each.mmer, published=True)
    if overall:
        yield "## Over all tasks"
        yield (
            "Interquartile mean of the scores over tasks and seeds, with stratified bootstrap 95% intervals (rliable; "
            "Agarwal et al. 2021). Scores are not normalised: all returns lie between -1 and 1."
        )
        rows = [[core, f"{each.estimate:.3f}", f"{each.low:.3f} to {each.high:.3f}"] for core, each in overall.items()]
        yield _markdown(["core", "interquartile mean", "95% interval"], rows)
        yield f"![Interquartile means with intervals]({INTERVALS})"
    yield "## At the end of training"
    yield "Mean episodic return of the last epoch; unlike a maximum, it does not reward noise."
    yield _table(results, lambda each: each.last)
    yield "## Learning curves"
    yield "Mean return of the last 100 episodes: median and range over seeds."
    yield f"![Learning curves]({CURVES})"
    yield "## Size and speed"
    yield "Parameters of the memory core, and environment steps per second (median over seeds)."
    yield _markdown(["task", "steps", *cores], [_size_and_speed(task, results) for task in tasks])


def _table(results: Sequence[Result], score: Callable[[Result], float], published: bool = False) -> str:
    tasks, cores = _tasks(results), _cores(results)
    reference = published and any(task in POPGYM for task in tasks)
    header = ["task", *cores, *(["POPGym's GRU", "POPGym's best"] if reference else [])]
    rows = []
    for task in tasks:
        row = [task, *(_spread([score(each) for each in _cells_of(results, task, core)]) for core in cores)]
        if reference and task in POPGYM:
            row += [f"{POPGYM[task].gru:.3f}", f"{POPGYM[task].best:.3f} ({POPGYM[task].best_model})"]
        rows.append(row + [NONE] * (len(header) - len(row)))
    note = "\n\nPOPGym's columns: Morad et al. 2023, table 3, after 15 million steps, 3 seeds." if reference else ""
    return _markdown(header, rows) + note


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def _size_and_speed(task: str, results: Sequence[Result]) -> list[str]:
    row = [task, f"{max(each.timesteps for each in results if each.task == task):,}"]
    for core in _cores(results):
        cells = _cells_of(results, task, core)
        speed = np.median([each.steps_per_second for each in cells]) if cells else 0
        row.append(f"{cells[0].parameters:,}; {speed:,.0f}/s" if cells else NONE)
    return row


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_curves(results: Sequence[Result], out: Path) -> "Figure":
    """Plots the learning curves, one panel per task."""
    from matplotlib.figure import Figure

    tasks, cores = _tasks(results), _cores(results)
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * rows), layout="constrained")
    for place, task in enumerate(tasks, 1):
        panel = figure.add_subplot(rows, columns, place)
        for number, core in enumerate(cores):
            curves = [read_curve(out / each.run) for each in _cells_of(results, task, core)]
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


def _cells_of(results: Sequence[Result], task: str, core: str) -> list[Result]:
    return [each for each in results if (each.task, each.core) == (task, core)]


def _tasks(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(each.task for each in results))


def _cores(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(each.core for each in results))


def _seeds(results: Sequence[Result]) -> list[int]:
    return sorted({each.seed for each in results})
