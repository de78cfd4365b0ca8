"""`ntm-rl sweep`: search for hyperparameters."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntm_rl.agents.cli.arguments import add_config, add_overrides, count, path
from ntm_rl.agents.cli.engine import add_engine_options, make_engine
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.runs.signals import SIGNAL_BASE
from ntm_rl.agents.settings.environment_variables import without_passwords
from ntm_rl.agents.settings.paths import display_path

if TYPE_CHECKING:
    from ntm_rl.agents.sweeps.results import Summary

EXAMPLES = (
    "ntm-rl sweep CartPole-v1 ppo --trials 20",
    "ntm-rl sweep popgym/repeat_previous_easy ntm --trials 50 --seeds 3 --jobs 2 total_timesteps=3e5",
    "ntm-rl sweep memory/memory_chain space.yaml --trials 100 --seeds 5 --pruner wilcoxon --out results/sweep",
    "ntm-rl sweep CartPole-v1 lstm --trials 100 --storage postgresql://USER@HOST/DATABASE --out /shared/sweep",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = add_command(commands, "sweep", sweep_command, "search for hyperparameters", EXAMPLES)
    add_config(parser)
    parser.add_argument("space", metavar="SPACE", help="YAML file, or packaged space (see `ntm-rl list spaces`)")
    add_overrides(parser)
    parser.add_argument("--trials", type=count, required=True, metavar="N", help="number of trials in total")
    parser.add_argument("--seeds", type=count, default=1, metavar="S", help="trainings of a trial (default: 1)")
    add_engine_options(parser)
    parser.add_argument("--out", type=path, metavar="DIR", help="output folder (default: runs/sweeps/CONFIG-SPACE)")
    parser.add_argument(
        "--storage",
        metavar="FILE|URL",
        help="journal file of Optuna, or postgresql://USER:PASSWORD@HOST/DATABASE (default: DIR/journal.log)",
    )
    parser.add_argument(
        "--pruner",
        default="none",
        metavar="NAME",
        help="none, hyperband (compares learning curves) or wilcoxon (compares seeds) (default: none)",
    )
    parser.add_argument(
        "--metric",
        default="last",
        metavar="NAME",
        help="value of a training: last or best score, or a column of progress.csv (default: last)",
    )
    parser.add_argument("--minimize", action="store_true", help="lower values of that column are better")


def sweep_command(options: argparse.Namespace) -> int:
    """Runs the sweep and prints its best trial."""
    from ntm_rl.agents.sweeps.requirements import require_optuna

    require_optuna()
    import optuna

    from ntm_rl.agents.engines.local import ProcessEngine
    from ntm_rl.agents.sweeps.plan import make_plan
    from ntm_rl.agents.sweeps.sweep import run_sweep

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = make_plan(
        options.config,
        options.space,
        options.overrides,
        seeds=options.seeds,
        metric=options.metric,
        minimize=options.minimize,
        pruner=options.pruner,
    )
    for key in plan.without_effect:
        print(f"note: {key}: has no effect, as no trial has that core", file=sys.stderr)
    out: Path = options.out or Path(plan.settings.run_dir, "sweeps", plan.name)
    summary, stopped_by = run_sweep(
        plan,
        out,
        options.trials,
        make_engine(options, out, ProcessEngine, uses_gpu=plan.settings.device.startswith("cuda")),
        storage=options.storage,
        command=_command_line(options),
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if stopped_by is not None:
        print(f"Stopped by {stopped_by.name}. Run the same command to continue.", file=sys.stderr)
        return SIGNAL_BASE + int(stopped_by)
    _print(summary, as_json=options.json)
    return 0


def _command_line(options: argparse.Namespace) -> str:
    """Returns the command line of the sweep, without the password of a storage."""
    words = ["ntm-rl", "sweep", options.config, options.space, *options.overrides, "--trials", str(options.trials)]
    words += ["--seeds", str(options.seeds), "--metric", options.metric, "--pruner", options.pruner]
    words += ["--minimize"] if options.minimize else []
    words += ["--out", str(options.out)] if options.out else []
    words += ["--storage", without_passwords(options.storage)] if options.storage else []
    return shlex.join(words)


def _print(summary: "Summary", *, as_json: bool) -> None:
    counts = {"complete": summary.complete, "pruned": summary.pruned, "failed": summary.failed}
    out = display_path(summary.out)
    config = None if summary.best_config is None else display_path(summary.best_config)
    if as_json:
        best = {"best": summary.best, "score": summary.score, "values": summary.values, "best_config": config}
        print_json({"out": out, **counts, **best})
        return
    print_lines(f"Trials: {', '.join(f'{number} {state}' for state, number in counts.items() if number)}")
    if config is not None:
        print_lines(
            f"Best: trial {summary.best}, score {summary.score:g}",
            *(f"  {key} = {value}" for key, value in summary.values.items()),
        )
    print_lines(f"Sweep: {out}")
    if config is not None:
        print_lines(f"Next: ntm-rl train {shlex.quote(config)}")
