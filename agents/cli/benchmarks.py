"""The benchmarks of the command line."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ntm_rl.agents.cli import words as cli_words
from ntm_rl.agents.cli.terminal import say
from ntm_rl.agents.runs.signals import SIGNAL_BASE


def add_benchmarks(benchmarks: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the benchmarks; `command(benchmarks, name, function, text)` adds one and returns its parser."""
    speed = command(benchmarks, "speed", _speed, "measure speed against other libraries")
    speed.add_argument("--only", metavar="NAME", help="one row alone")
    growth = command(benchmarks, "growth", _growth, "measure how cost grows with one size")
    growth.add_argument("--only", metavar="NAME", help="one axis alone")
    growth.add_argument("--plot", type=cli_words.path, metavar="FILE.png", help="draw the growth")
    cores = command(benchmarks, "cores", _cores, "measure what a step of each core costs at about the same parameters")
    cores.add_argument("--only", metavar="CORE", help="one core alone")
    command(benchmarks, "sparse", _sparse, "measure the sparse access memory beside the dense NTM, by slots")
    memory = command(benchmarks, "memory", _memory, "train cores on a suite of memory tasks and compare them")
    memory.add_argument("--suite", required=True, metavar="NAME", help="popgym-small, minigrid, algorithmic, ...")
    memory.add_argument("--tasks", type=_names, metavar="A,B", help="some of its tasks alone")
    memory.add_argument(
        "--cores", type=_names, default=["ntm", "lstm", "gru"], metavar="A,B", help="which (ntm,lstm,gru)"
    )
    memory.add_argument(
        "--seeds", type=cli_words.number, default=3, metavar="N", help="trainings of each, seeded from 0 on (3)"
    )
    memory.add_argument(
        "--timesteps", type=cli_words.number, metavar="N", help="of each training, in place of the suite's"
    )
    memory.add_argument(
        "--out", type=cli_words.path, metavar="DIR", help="where runs and report go (runs/benchmark/SUITE)"
    )
    memory.add_argument("--jobs", type=cli_words.number, default=1, metavar="J", help="trainings at once (1)")
    memory.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for all trainings, such as wandb=disabled"
    )
    memory.add_argument("--report-only", action="store_true", help="write the report of what is finished")


def _speed(options: argparse.Namespace) -> int:
    from ntm_rl.agents.speed.comparisons import speed

    rows: list[Any] = []
    for row in speed(options.only):
        rows.append(row)
        if not options.json:
            verdict = "met" if row.met else "NOT met"
            say(
                f"{row.name}: {row.ours:,.4g} {row.unit} against {row.peer:,.4g} {row.unit}, ratio {row.ratio:.3g} "
                f"(goal {row.goal}: {verdict}; {row.threads} thread{'s' * (row.threads > 1)})"
            )
    return _print_rows(rows, options.json)


def _growth(options: argparse.Namespace) -> int:
    from ntm_rl.agents.speed.growth import check_plot, growth, plot

    if options.plot is not None:
        check_plot(options.plot)
    rows: list[Any] = []
    for row in growth(options.only):
        if not options.json:
            if not rows:
                say(f"{'axis':8}{'value':>8}{'NTM':>12}{'LSTM':>12}  unit")
            say(f"{row.axis:8}{row.value:8}{row.ours:12,.1f}{row.peer:12,.1f}  {row.unit}")
        rows.append(row)
    if options.plot is not None:
        plot(rows, options.plot)
    return _print_rows(rows, options.json)


def _cores(options: argparse.Namespace) -> int:
    from ntm_rl.agents.speed.core_costs import core_costs, table

    rows = list(core_costs(options.only))
    if not options.json:
        say(table(rows))
    return _print_rows(rows, options.json)


def _sparse(options: argparse.Namespace) -> int:
    from ntm_rl.agents.speed.sam_growth import sparse_growth

    rows: list[Any] = []
    for row in sparse_growth():
        if not options.json:
            if not rows:
                say(f"{'slots':>8}{'SAM, ms':>12}{'NTM, ms':>12}{'SAM, MiB':>12}{'NTM, MiB':>12}")
            say(f"{row.slots:8}{row.ours:12,.1f}{row.peer:12,.1f}{row.ours_peak:12,.0f}{row.peer_peak:12,.0f}")
        rows.append(row)
    return _print_rows(rows, options.json)


def _print_rows(rows: list[Any], as_json: bool) -> int:
    if as_json:
        say(json.dumps([vars(row) for row in rows]))
    return 0


def _memory(options: argparse.Namespace) -> int:
    from ntm_rl.agents.benchmark.cells import plan
    from ntm_rl.agents.benchmark.grid import run_grid
    from ntm_rl.agents.benchmark.report import check_report, write_report

    check_report()
    out: Path = options.out or Path("runs", "benchmark", options.suite)
    stopped = None
    if not options.report_only:
        sizes = {"tasks": options.tasks, "timesteps": options.timesteps, "overrides": options.set}
        cells = plan(options.suite, options.cores, options.seeds, **sizes)
        stopped = run_grid(cells, out, jobs=options.jobs, tell=lambda line: print(line, file=sys.stderr, flush=True))
    if stopped is not None:
        print(f"Stopped by {stopped.name}; the same command goes on, --report-only reports", file=sys.stderr)
        return SIGNAL_BASE + int(stopped)
    report = write_report(options.suite, out)
    say(json.dumps(report) if options.json else Path(report["report"]).read_text().rstrip("\n"))
    return 0


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]
