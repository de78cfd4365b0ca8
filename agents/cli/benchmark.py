"""`ntm-rl benchmark`: measure speed, the cost of cores, and their scores on memory tasks."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ntm_rl.agents import defaults
from ntm_rl.agents.benchmark.suites import SUITES
from ntm_rl.agents.cli.arguments import count, names, path, seed
from ntm_rl.agents.cli.engine import add_engine_options, make_engine
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.scaling import add_scaling
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.runs.signals import SIGNAL_BASE

EXAMPLES = (
    "ntm-rl benchmark speed",
    "ntm-rl benchmark memory --suite popgym-small --cores ntm,lstm --seeds 3",
)
SPEED_EXAMPLES = (
    "ntm-rl benchmark speed",
    "ntm-rl benchmark speed --only ppo_ntm_cartpole --json",
    "ntm-rl benchmark speed --device cuda --report cuda-report.md",
)
GROWTH_EXAMPLES = ("ntm-rl benchmark growth", "ntm-rl benchmark growth --only slots --plot slots.png")
CORES_EXAMPLES = ("ntm-rl benchmark cores", "ntm-rl benchmark cores --only dnc")
SPARSE_EXAMPLES = ("ntm-rl benchmark sparse", "ntm-rl benchmark sparse --json")
TASKS_EXAMPLES = ("ntm-rl benchmark tasks --suite general-dev", "ntm-rl benchmark tasks --suite tmaze --json")
RANDOM_EXAMPLES = (
    "ntm-rl benchmark random --suites general-dev,general-test",
    "ntm-rl benchmark random --suites popgym --episodes 500 --json",
)
MEMORY_EXAMPLES = (
    "ntm-rl benchmark memory --suite popgym-small --cores ntm,lstm --seeds 3",
    "ntm-rl benchmark memory --suite tmaze --tasks length-20,length-50 --jobs 2 --set wandb=disabled",
    "ntm-rl benchmark memory --suite popgym-small --report-only",
)


def add(commands: Any) -> None:
    """Adds the command and its benchmarks to the parser."""
    parser = commands.add_parser(
        "benchmark",
        help="measure speed, cost or learning",
        description="Measure speed, cost or learning.",
        epilog="\n  ".join(["examples:", *EXAMPLES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmarks = parser.add_subparsers(required=True, metavar="BENCHMARK")
    speed = add_command(benchmarks, "speed", speed_command, "compare the speed with other libraries", SPEED_EXAMPLES)
    speed.add_argument("--only", metavar="NAME", help="run a single comparison")
    speed.add_argument(
        "--device",
        metavar="DEVICE",
        help="compare cores and trainings on a device (cpu, cuda or cuda:N) within minutes",
    )
    speed.add_argument("--report", type=path, metavar="FILE.md", help="append the rows of --device to a report")
    growth = add_command(
        benchmarks, "growth", growth_command, "measure how the cost grows with each size", GROWTH_EXAMPLES
    )
    growth.add_argument("--only", metavar="NAME", help="vary a single size")
    growth.add_argument("--plot", type=path, metavar="FILE.png", help="plot the results to a file")
    cores = add_command(
        benchmarks, "cores", cores_command, "measure the cost of a step of each core at equal size", CORES_EXAMPLES
    )
    cores.add_argument("--only", metavar="CORE", help="measure a single core")
    add_command(benchmarks, "sparse", sparse_command, "compare SAM with the NTM as slots grow", SPARSE_EXAMPLES)
    add_scaling(benchmarks)
    summary = "list the tasks of a suite with their budgets, returns of random play and optima"
    tasks = add_command(benchmarks, "tasks", tasks_command, summary, TASKS_EXAMPLES)
    tasks.add_argument("--suite", required=True, metavar="NAME", help=f"one of {', '.join(SUITES)}")
    summary = "measure the returns of random play on suites of memory tasks"
    random = add_command(benchmarks, "random", random_command, summary, RANDOM_EXAMPLES)
    random.add_argument("--suites", type=names, required=True, metavar="A,B", help=f"of {', '.join(SUITES)}")
    random.add_argument("--tasks", type=names, metavar="A,B", help="tasks of the suites (default: all)")
    random.add_argument("--episodes", type=count, default=1000, metavar="N", help="per task (default: 1000)")
    random.add_argument("--seed", type=seed, default=0, help="of environments and actions (default: 0)")
    _add_memory(benchmarks)


def _add_memory(benchmarks: Any) -> None:
    summary = "train cores on a suite of memory tasks and compare their scores"
    memory = add_command(benchmarks, "memory", memory_command, summary, MEMORY_EXAMPLES)
    memory.add_argument("--suite", required=True, metavar="NAME", help=f"one of {', '.join(SUITES)}")
    memory.add_argument("--tasks", type=names, metavar="A,B", help="tasks of the suite (default: all)")
    cores = [defaults.CORE, "lstm", "gru"]
    memory.add_argument("--cores", type=names, default=cores, metavar="A,B", help=f"cores (default: {','.join(cores)})")
    memory.add_argument("--seeds", type=count, default=3, metavar="N", help="seeds 0 to N-1 (default: 3)")
    memory.add_argument("--timesteps", type=count, metavar="N", help="budget of each training (default: the suite's)")
    memory.add_argument("--out", type=path, metavar="DIR", help="output folder (default: runs/benchmark/SUITE)")
    add_engine_options(memory)
    memory.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting of all trainings; may be repeated"
    )
    memory.add_argument("--report-only", action="store_true", help="report finished trainings without starting any")


def speed_command(options: argparse.Namespace) -> int:
    """Prints the comparisons as they are measured."""
    from ntm_rl.errors import InputError

    if options.device is not None:
        return _device_speed(options)
    if options.report is not None:
        raise InputError("--report: needs --device")
    from ntm_rl.agents.speed.comparisons import speed

    _print_rows(speed(options.only), _speed_line, options.json)
    return 0


def _device_speed(options: argparse.Namespace) -> int:
    """Prints the comparisons on a device, and appends them to the report."""
    from ntm_rl.agents.speed.device_report import append_speed, check_report
    from ntm_rl.agents.speed.devices import device_speed, find_device

    device = find_device(options.device)
    if options.report is not None:
        check_report(options.report)
    rows = device_speed(device, options.only)
    if options.report is not None:
        rows = append_speed(options.report, device, rows)
    _print_rows(rows, _speed_line, options.json)
    return 0


def _speed_line(row: Any) -> str:
    goal = "" if row.goal is None else f"goal {row.goal}: {'met' if row.met else 'NOT met'}; "
    return (
        f"{row.name}: {row.ours:,.4g} {row.unit} against {row.peer:,.4g} {row.unit}, ratio {row.ratio:.3g} "
        f"({goal}{row.threads} thread{'s' * (row.threads > 1)})"
    )


def growth_command(options: argparse.Namespace) -> int:
    """Prints the points as they are measured, and plots them."""
    from ntm_rl.agents.speed.growth import check_plot, growth, plot

    if options.plot is not None:
        check_plot(options.plot)
    rows = _print_rows(
        growth(options.only),
        lambda row: f"{row.axis:8}{row.value:8}{row.ours:12,.1f}{row.peer:12,.1f}  {row.unit}",
        options.json,
        header=f"{'axis':8}{'value':>8}{'NTM':>12}{'LSTM':>12}  unit",
    )
    if options.plot is not None:
        plot(rows, options.plot)
    return 0


def cores_command(options: argparse.Namespace) -> int:
    """Prints the costs of the cores."""
    from ntm_rl.agents.speed.core_costs import core_costs, table

    rows = core_costs(options.only)
    if options.json:
        print_json([vars(row) for row in rows])
    else:
        print_lines(table(rows))
    return 0


def sparse_command(options: argparse.Namespace) -> int:
    """Prints the costs of SAM and the NTM as they are measured."""
    from ntm_rl.agents.speed.sam_growth import sparse_growth

    _print_rows(
        sparse_growth(),
        lambda row: f"{row.slots:8}{row.ours:12,.1f}{row.peer:12,.1f}{row.ours_peak:12,.0f}{row.peer_peak:12,.0f}",
        options.json,
        header=f"{'slots':>8}{'SAM, ms':>12}{'NTM, ms':>12}{'SAM, MiB':>12}{'NTM, MiB':>12}",
    )
    return 0


def tasks_command(options: argparse.Namespace) -> int:
    """Prints the tasks of a suite as a Markdown table."""
    from ntm_rl.agents.benchmark.suites import find_suite
    from ntm_rl.agents.benchmark.tables import describe_task, task_table

    tasks = find_suite(options.suite).tasks
    if options.json:
        print_json([describe_task(task) for task in tasks])
    else:
        print_lines(task_table(tasks))
    return 0


def random_command(options: argparse.Namespace) -> int:
    """Prints the returns of random play as comma-separated values."""
    from ntm_rl.agents.benchmark.random_play import play_suites

    _print_rows(
        play_suites(options.suites, options.episodes, options.seed, options.tasks),
        lambda row: f"{row.task},{row.episodes},{row.mean:.5g},{row.error:.2g}",
        options.json,
        header="task,episodes,mean,error",
    )
    return 0


def _print_rows(rows: Iterable[Any], line: Callable[[Any], str], as_json: bool, header: str | None = None) -> list[Any]:
    """Prints each row when it is measured, or all as JSON at the end, and returns them."""
    measured: list[Any] = []
    for row in rows:
        if not as_json:
            print_lines(*([header] if header and not measured else []), line(row))
        measured.append(row)
    if as_json:
        print_json([vars(row) for row in measured])
    return measured


def memory_command(options: argparse.Namespace) -> int:
    """Trains the grid and prints its report."""
    from ntm_rl.agents.benchmark.cells import plan
    from ntm_rl.agents.benchmark.grid import run_grid
    from ntm_rl.agents.benchmark.report import check_report, write_benchmark_report
    from ntm_rl.agents.engines.local import local_engine

    check_report()
    out: Path = options.out or Path("runs", "benchmark", options.suite)
    if not options.report_only:
        sizes = {"tasks": options.tasks, "timesteps": options.timesteps, "overrides": options.set}
        cells = plan(options.suite, options.cores, options.seeds, **sizes)
        engine = make_engine(options, out, local_engine, uses_gpu=cells[0].settings(out).device.startswith("cuda"))
        stopped_by = run_grid(cells, out, engine, log=lambda line: print(line, file=sys.stderr, flush=True))
        if stopped_by is not None:
            print(
                f"Stopped by {stopped_by.name}. Run the same command to continue, or --report-only for a report.",
                file=sys.stderr,
            )
            return SIGNAL_BASE + int(stopped_by)
    report = write_benchmark_report(options.suite, out)
    if options.json:
        print_json(report)
    else:
        print_lines(Path(report["report"]).read_text().rstrip("\n"))
    return 0
