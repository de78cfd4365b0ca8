"""`ntm-rl benchmark scaling`: measure a training on several processes and predict it for more."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ntm_rl.agents.cli.arguments import add_config, add_overrides
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.parallel.launched import is_launched

if TYPE_CHECKING:
    from ntm_rl.agents.speed.cost_model import Prediction
    from ntm_rl.agents.speed.scaling import Scaling

EXAMPLES = (
    "ntm-rl benchmark scaling popgym-RepeatPreviousEasy-v0 n_envs=64",
    "ntm-rl benchmark scaling popgym/repeat_previous_easy core=lstm n_envs=64 processes=4 --json",
)


def add_scaling(benchmarks: Any) -> None:
    """Adds the benchmark to the parser."""
    summary = "measure a training on several processes, and predict its speed with more"
    parser = add_command(benchmarks, "scaling", scaling_command, summary, EXAMPLES)
    add_config(parser)
    add_overrides(parser)


def scaling_command(options: argparse.Namespace) -> int:
    """Measures on the processes of the settings, 2 by default, and prints the tables."""
    from ntm_rl.agents.cli.train import run_on_ranks
    from ntm_rl.agents.runs.signals import end_on_signals
    from ntm_rl.agents.settings.loading import load_settings
    from ntm_rl.agents.settings.schema import PpoTrainingSettings
    from ntm_rl.agents.speed.scaling import measure_scaling
    from ntm_rl.errors import InputError

    settings = load_settings(options.config, ["processes=2", "max_restarts=0", *options.overrides])
    if not isinstance(settings, PpoTrainingSettings):
        raise InputError(f"{options.config}: must be a PPO training")
    if settings.processes > 1 and not is_launched():
        return run_on_ranks(settings, options, "benchmark", "scaling", options.config)
    if is_launched():
        end_on_signals()
    result = measure_scaling(settings)
    if result is not None and options.json:
        print_json(asdict(result))
    elif result is not None:
        print_lines(*_lines(result))
    return 0


def _lines(result: "Scaling") -> list[str]:
    sizes, costs, speed = result.sizes, result.costs, result.speed
    step, update = costs.rollout_step, costs.update
    return [
        f"{sizes.n_envs:g} environments x {sizes.n_steps} steps, {sizes.n_epochs} epochs of {sizes.minibatches} "
        f"minibatches of {sizes.sequences:g} sequences, {sizes.gradient_bytes:,} bytes of gradient a minibatch",
        f"rollout step: {1e6 * step.constant:,.0f} µs + {1e6 * step.slope:,.1f} µs an environment",
        f"update: {1e3 * update.constant:,.2f} ms + {1e3 * update.slope:,.2f} ms a sequence",
        f"message between ranks: {1e6 * costs.latency:,.0f} µs + {1e9 * costs.seconds_per_byte:,.2f} ns a byte",
        "",
        "| processes | measured, steps/s | predicted, steps/s |",
        "|---|---|---|",
        f"| 1 | {speed(result.alone):,.0f} | {result.divided[0].steps_per_second:,.0f} |",
        f"| {result.ranks} | {speed(result.together):,.0f} | {result.divided[1].steps_per_second:,.0f} |",
        "",
        *_table(f"the training of {sizes.n_envs:g} environments, divided", result.divided),
        "",
        *_table(f"{sizes.n_envs:g} environments on each process", result.grown),
    ]


def _table(title: str, predictions: "list[Prediction]") -> list[str]:
    alone = predictions[0].steps_per_second
    return [
        f"| processes: {title} | rollout, s | computation of updates, s | exchange, s | steps/s | efficiency |",
        "|---|---|---|---|---|---|",
        *(
            f"| {each.ranks} | {each.rollout:.3f} | {each.update:.3f} | {each.exchange:.3f} "
            f"| {each.steps_per_second:,.0f} | {each.steps_per_second / alone / each.ranks:.2f} |"
            for each in predictions
        ),
    ]
