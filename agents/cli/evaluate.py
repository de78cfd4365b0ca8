"""`ntm-rl evaluate`: play episodes with a trained agent, or score a supervised network."""

import argparse
from typing import Any

from ntm_rl.agents.cli.arguments import add_agent_options, add_run, count, parse_difficulty
from ntm_rl.agents.cli.exit_codes import BAD_INPUT
from ntm_rl.agents.cli.parser import add_command
from ntm_rl.agents.cli.terminal import print_json, print_lines
from ntm_rl.agents.settings.paths import display_path
from ntm_rl.errors import InputError

EXAMPLES = (
    "ntm-rl evaluate RUN",
    "ntm-rl evaluate RUN --episodes 500 --best --json",
    "ntm-rl evaluate RUN --difficulty length=50 --difficulty length=120   # a supervised run",
)


def add(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = add_command(
        commands, "evaluate", evaluate_command, "play episodes with a trained agent, or score a network", EXAMPLES
    )
    add_run(parser)
    parser.add_argument("--episodes", type=count, default=100, metavar="N", help="episodes or sequences (default: 100)")
    add_agent_options(parser)
    parser.add_argument(
        "--max-steps",
        type=count,
        metavar="N",
        help="stop an episode after N steps (default: 10000 if the environment has no time limit)",
    )
    parser.add_argument(
        "--difficulty",
        action="append",
        default=[],
        metavar="NAME=N[,NAME=N]",
        help="difficulty of a supervised task, such as length=120; may be repeated",
    )


def evaluate_command(options: argparse.Namespace) -> int:
    """Evaluates a run's agent or network and prints the result."""
    from ntm_rl.agents.inspection.evaluation import evaluate
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.settings.kinds import SUPERVISED

    run = Run.open(options.run)
    run.require_trust(trust=options.trust)
    if run.settings().kind is SUPERVISED:
        if options.stochastic or options.max_steps is not None:
            raise InputError("--stochastic, --max-steps: only for runs with an environment; leave them out")
        return _evaluate_supervised(run, options)
    if options.difficulty:
        raise InputError(f"--difficulty {options.difficulty[0]}: only for runs of supervised tasks; leave it out")
    result = evaluate(
        run,
        options.episodes,
        seed=options.seed,
        deterministic=not options.stochastic,
        best=options.best,
        max_steps=options.max_steps,
        show_progress=True,
    )
    if options.json:
        statistics = {key: value for key, value in vars(result).items() if key not in ("run", "origin")}
        print_json({"run": display_path(result.run), **result.origin.row(), **statistics})
    else:
        print_lines(*_evaluation_lines(result))
    return 0 if result.ended else BAD_INPUT


def _evaluation_lines(result: Any) -> list[str]:
    if result.ended == result.episodes:
        return [f"{result.episodes} episodes: {_statistics(result)}"]
    first = f"{result.ended} of {result.episodes} episodes ended within {result.max_steps:,} steps each"
    lines = [f"{first}: {_statistics(result)}" if result.ended else f"{first}: no return to report"]
    if result.ended:
        lines.append("This mean covers only the shorter episodes, as longer ones were stopped.")
    lines.append(f"The stopped episodes had a mean return of {result.mean_return_so_far:.3f} so far.")
    lines.append("Raise --max-steps; where episodes have no end, train with env.max_episode_steps=N.")
    return lines


def _statistics(result: Any) -> str:
    statistics = f"mean return {result.mean_return:.3f} ± {result.std_return:.3f}, mean length {result.mean_length:.1f}"
    return statistics if result.success_rate is None else f"{statistics}, success rate {result.success_rate:.3f}"


def _evaluate_supervised(run: Any, options: argparse.Namespace) -> int:
    from ntm_rl.agents.inspection.evaluation import evaluate_supervised

    difficulties = [parse_difficulty(text) for text in options.difficulty]
    result = evaluate_supervised(run, options.episodes, difficulties, seed=options.seed, best=options.best)
    if options.json:
        scores = {name: vars(score) for name, score in result.scores.items()}
        print_json({"run": display_path(run.path), **result.origin.row(), "scores": scores})
        return 0
    for name, score in result.scores.items():
        above = f" ({score.bits - score.floor:.3f} above the optimum)" if score.floor else ""
        print_lines(f"{name}: {score.bits:.4f} bits per sequence{above}, {score.wrong:.3%} of bits wrong")
    return 0
