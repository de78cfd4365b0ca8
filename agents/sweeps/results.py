"""The results of a sweep in its folder: `best.yaml`, `trials.csv` and pictures."""

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ntm_rl.agents.settings.paths import display_path
from ntm_rl.agents.settings.values import with_value
from ntm_rl.agents.settings.yaml_text import to_yaml_text
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.agents.sweeps.active_trial import ERROR, VALUES
from ntm_rl.agents.sweeps.plan import Plan
from ntm_rl.agents.sweeps.study import SweepStudy
from ntm_rl.texts import one_line

BEST, TABLE = "best.yaml", "trials.csv"
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class Summary:
    """The results of a sweep so far.

    Attributes:
        out: The sweep's folder.
        complete: Number of trials with a score.
        pruned: Number of trials that ended early.
        failed: Number of trials with an error.
        best: Number of the best trial; None before there is one.
        score: Its score.
        values: Its values by dotted key.
        error: The error of the first failed trial.
    """

    out: Path
    complete: int
    pruned: int
    failed: int
    best: int | None
    score: float | None
    values: Mapping[str, Any]
    error: str | None

    @property
    def best_config(self) -> Path | None:
        """The config of the best trial."""
        return None if self.best is None else self.out / BEST


def write_results(sweep: SweepStudy, command: str) -> Summary:
    """Writes `trials.csv`, and `best.yaml` if a trial is complete, and returns the results.

    Args:
        sweep: The sweep.
        command: Command line of the sweep, for a comment.

    Raises:
        WriteError: a file cannot be written.
    """
    with sweep.locked():  # an older state never replaces a newer one
        trials = sweep.finished_trials()
        write_atomically(sweep.out / TABLE, _table(sweep.plan, trials).encode())
        best = find_best(trials, minimize=sweep.plan.metric.minimize)
        if best is not None:
            write_atomically(sweep.out / BEST, _best_config(sweep, best, len(trials), command).encode())
    complete, pruned, failed = (sum(each.state is state for each in trials) for state in STATES)
    error = next((str(each.user_attrs.get(ERROR)) for each in trials if each.state is TrialState.FAIL), None)
    values = {} if best is None else sweep.plan.space.values(best.params)
    number, score = (None, None) if best is None else (best.number, best.value)
    return Summary(sweep.out, complete, pruned, failed, number, score, values, error)


def find_best(trials: Sequence[FrozenTrial], *, minimize: bool) -> FrozenTrial | None:
    """Returns the complete trial with the best score, the first of equal ones; None if there is none."""
    sign = 1 if minimize else -1
    complete = [each for each in trials if each.state is TrialState.COMPLETE]
    return min(complete, key=lambda each: sign * (each.value or 0.0), default=None)


def _table(plan: Plan, trials: Sequence[FrozenTrial]) -> str:
    """Returns the finished trials as comma-separated values, one per row."""
    keys = [each.key for each in plan.space.parameters]
    seeds = range(plan.settings.seed, plan.settings.seed + plan.seeds)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "score", *(f"seed {seed}" for seed in seeds), *keys, "error"])
    for each in trials:
        score = each.value if each.state is TrialState.COMPLETE else None
        values = each.user_attrs.get(VALUES, [None] * plan.seeds)
        error = each.user_attrs.get(ERROR)
        row = [each.number, STATES[each.state], score, *values, *(each.params.get(key) for key in keys), error]
        writer.writerow(["" if value is None else value for value in row])
    return text.getvalue()


def _best_config(sweep: SweepStudy, best: FrozenTrial, n_trials: int, command: str) -> str:
    plan, values = sweep.plan, ", ".join(f"{each:g}" for each in best.user_attrs.get(VALUES, []))
    header = [
        f"The best of {n_trials} finished trials: trial {best.number} with {best.value:g}, the interquartile mean over",
        f"its seeds of the {plan.metric.description} ({values}).",
        f"Sweep: {command}",
        f"  ntm-rl train {shlex.quote(display_path(sweep.out / BEST))}",
    ]
    comments = "".join(f"# {one_line(line)}\n" for line in header)
    data = plan.trial_data(plan.space.values(best.params))
    return comments + to_yaml_text(with_value(data, "run_dir", str(Path(plan.settings.run_dir, sweep.out.name))))
