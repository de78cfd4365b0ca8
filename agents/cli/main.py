"""The command line, `ntm-rl`."""

import argparse
import errno
import json
import math
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ntm_rl
from ntm_rl.agents.cli import words as cli_words
from ntm_rl.agents.cli.benchmarks import add_benchmarks
from ntm_rl.agents.cli.terminal import OutputClosedError, drop_output, say, usable_streams
from ntm_rl.agents.cli.words import Parser, overrides_of_options
from ntm_rl.agents.runs.signals import SIGNAL_BASE
from ntm_rl.agents.settings.paths import shown
from ntm_rl.errors import InputError

BAD_INPUT = 2
CANNOT_WRITE = 3
NOT_FINITE = 4
ENVIRONMENT_FAILED = 5
CANNOT_BE_WRITTEN = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ESTALE),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code, of which docs/reference/command_line.md has the list."""
    with usable_streams():
        try:
            options = _parser().parse_args(overrides_of_options(sys.argv[1:] if arguments is None else arguments))
            code: int = options.command(options)
            return code
        except InputError as error:
            print(error, file=sys.stderr)
            return _exit_code(error)
        except KeyboardInterrupt:  # before a training began, or a second one: StopOnSignal handles the first
            print("interrupted; `ntm-rl resume RUN` goes on with a training that had begun", file=sys.stderr)
            return SIGNAL_BASE + signal.SIGINT
        except OutputClosedError:  # the reader of a list has seen enough
            drop_output()
            return 0
        except OSError as error:
            if error.errno not in CANNOT_BE_WRITTEN:
                raise  # not a matter of files: whose code it is shows in the traceback
            print(f"{error.filename or 'standard output, or a file'}: {error.strerror or error}", file=sys.stderr)
            drop_output()
            return CANNOT_WRITE
        except MemoryError as error:
            print(f"not enough memory: {error or 'what was asked for does not fit'}; ask for less", file=sys.stderr)
            return BAD_INPUT


def _exit_code(error: InputError) -> int:
    from ntm_rl.agents.runs.nonfinite import NonFiniteError
    from ntm_rl.agents.storage.files import WriteError
    from ntm_rl.envs.foreign import ForeignError

    if isinstance(error, NonFiniteError):
        return NOT_FINITE
    if isinstance(error, ForeignError):
        return ENVIRONMENT_FAILED
    return CANNOT_WRITE if isinstance(error, WriteError) else BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = Parser("ntm-rl", description="Trains and runs reinforcement learning agents with memory.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    overrides = "such as core=lstm or ppo.learning_rate=1e-4; `ntm-rl show CONFIG --keys` lists all keys"

    train = _command(commands, "train", _train, "train an agent")
    train.add_argument("config", metavar="CONFIG", help="a YAML file or a packaged config (`ntm-rl list configs`)")
    train.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=overrides)
    resume = _command(commands, "resume", _resume, "go on with a training that was interrupted, or train on")
    resume.add_argument("run", metavar="RUN", help="the run's folder")
    resume.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="such as total_timesteps=2000000")
    evaluate = _command(commands, "evaluate", _evaluate, "play whole episodes with a trained agent")
    evaluate.add_argument("run", metavar="RUN", help="the run's folder")
    evaluate.add_argument(
        "--episodes", type=cli_words.number, default=100, metavar="N", help="episodes or sequences (100)"
    )
    evaluate.add_argument(
        "--difficulty",
        action="append",
        default=[],
        metavar="NAME=N[,NAME=N]",
        help="of a supervised task's sequences, such as length=120; may be repeated",
    )
    evaluate.add_argument("--seed", type=cli_words.seed, default=10_000, help="seed of the environments (10000)")
    evaluate.add_argument("--stochastic", action="store_true", help="sample actions instead of the most likely")
    evaluate.add_argument("--best", action="store_true", help="the best agent of the training instead of the last")
    evaluate.add_argument(
        "--max-steps",
        type=cli_words.number,
        metavar="N",
        help="steps after which an episode is given up (10000 where the environment has no time limit)",
    )
    film = _command(commands, "record", _record, "film whole episodes of a trained agent")
    film.add_argument("run", metavar="RUN", help="the run's folder, under whose videos/ the film goes")
    film.add_argument("--out", type=cli_words.path, metavar="FILE.mp4", help="where it goes instead")
    film.add_argument("--episodes", type=cli_words.number, default=1, metavar="N", help="how many (1)")
    film.add_argument("--seed", type=cli_words.seed, default=10_000, help="seed of the environment (10000)")
    film.add_argument("--stochastic", action="store_true", help="sample actions instead of the most likely")
    film.add_argument("--best", action="store_true", help="the best agent of the training instead of the last")
    film.add_argument(
        "--max-steps", type=cli_words.number, default=5000, metavar="N", help="longest film, in steps (5000)"
    )
    inspect = _command(commands, "inspect", _inspect, "draw a run's learning curve, answers and use of its memory")
    inspect.add_argument("run", metavar="RUN", help="the run's folder, into whose figures/ the pictures go")
    inspect.add_argument(
        "others", nargs="*", metavar="RUN", help="runs for the same learning curve, such as other seeds"
    )
    for command in (resume, evaluate, film, inspect):
        command.add_argument("--trust", action="store_true", help="import the module that a run of others names")
    listing = _command(commands, "list", _list, "list environments, memory cores or packaged configs")
    listing.add_argument("what", choices=("envs", "cores", "configs"))
    show = _command(commands, "show", _show, "print a config as it would be trained", has_json=False)
    show.add_argument("config", metavar="CONFIG")
    show.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=overrides)
    show.add_argument("--keys", action="store_true", help="print every key with its type, default and meaning")
    benchmark = commands.add_parser("benchmark", help="measure speed, what cores cost, or what they learn")
    add_benchmarks(benchmark.add_subparsers(required=True, metavar="WHAT"), _command)
    copy = _command(commands, "copy", _copy, "copy a packaged config to a file of your own", has_json=False)
    copy.add_argument("config", metavar="CONFIG")
    copy.add_argument("file", type=cli_words.path, metavar="FILE")
    convert = _command(commands, "convert", _convert, "turn an SB3 zip into an agent's files", has_json=False)
    convert.add_argument("file", type=cli_words.path, metavar="FILE.zip")
    convert.add_argument("folder", type=cli_words.path, metavar="FOLDER", help="where the agent goes; must not exist")
    convert.add_argument("--trust", action="store_true", help="run whatever code is in the zip: loading it does that")
    return parser


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str, has_json: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.set_defaults(command=function)
    if has_json:
        parser.add_argument("--json", action="store_true", help="print results as JSON")
    return parser


def _train(options: argparse.Namespace) -> int:
    from ntm_rl.agents.ppo.training import train
    from ntm_rl.agents.settings.loading import load_settings, to_yaml, without_effect
    from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
    from ntm_rl.agents.supervised.training import train_supervised

    settings = load_settings(options.config, options.overrides)
    print(to_yaml(settings), file=sys.stderr)
    for key in without_effect(settings, options.overrides):
        print(f"note: {key}: has no effect, as core = {settings.core!r}", file=sys.stderr)
    if isinstance(settings, SupervisedTrainingSettings):
        return _report_supervised(train_supervised(settings, options.config), options.json)
    return _report(train(settings, options.config), options.json)


def _resume(options: argparse.Namespace) -> int:
    from ntm_rl.agents.ppo.training import resume
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.settings.loading import load_settings
    from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
    from ntm_rl.agents.supervised.training import resume_supervised

    run = Run.open(options.run)
    settings = load_settings(str(run.config_file), options.overrides)
    run.require_trust(settings, trust=options.trust)
    if isinstance(settings, SupervisedTrainingSettings):
        return _report_supervised(resume_supervised(run, settings), options.json)
    return _report(resume(run, settings), options.json)


def _report(result: Any, as_json: bool) -> int:
    mean = None if result.mean_return is None else round(result.mean_return, 4)
    row = {"run": shown(result.run), "mean_return": mean, "timesteps": result.timesteps}
    lines = [
        f"after {result.timesteps:,} environment steps ({result.steps_per_second:,.0f} steps/s).",
        f"Mean return of the last episodes: {'none ended' if mean is None else mean}",
    ]
    return _tell({**row, "steps_per_second": round(result.steps_per_second, 1)}, lines, result, as_json)


def _report_supervised(result: Any, as_json: bool) -> int:
    bits = None if result.bits_per_sequence is None else round(result.bits_per_sequence, 5)
    row = {"run": shown(result.run), "bits_per_sequence": bits, "sequences": result.sequences}
    lines = [
        f"after {result.sequences:,} sequences ({result.sequences_per_second:,.0f} sequences/s).",
        f"Bits per sequence of the last validation: {'none was made' if bits is None else bits}",
    ]
    return _tell({**row, "sequences_per_second": round(result.sequences_per_second, 1)}, lines, result, as_json)


def _tell(row: dict[str, Any], lines: list[str], result: Any, as_json: bool) -> int:
    """Prints what came of a training; returns the exit code."""
    if as_json:
        say(json.dumps(row))
    else:
        ended = "Finished" if result.stopped_by is None else f"Stopped by {result.stopped_by.name}"
        next_command = "evaluate" if result.stopped_by is None else "resume"
        run = shown(result.run)
        say(f"{ended} {lines[0]}", *lines[1:], f"Run: {run}", f"Next: ntm-rl {next_command} {shlex.quote(run)}")
    return 0 if result.stopped_by is None else SIGNAL_BASE + int(result.stopped_by)


def _evaluate(options: argparse.Namespace) -> int:
    from ntm_rl.agents.inspection.evaluation import evaluate
    from ntm_rl.agents.runs.run import Run
    from ntm_rl.agents.settings.schema import SupervisedTrainingSettings

    run = Run.open(options.run)
    run.require_trust(trust=options.trust)
    if isinstance(run.settings(), SupervisedTrainingSettings):
        if options.stochastic or options.max_steps is not None:
            raise InputError("--stochastic, --max-steps: only runs with an environment take them; leave them out")
        return _evaluate_supervised(run, options)
    if options.difficulty:
        raise InputError(f"--difficulty {options.difficulty[0]}: only runs of supervised tasks take one")
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
        figures = {key: _as_json(value) for key, value in vars(result).items() if key not in ("run", "origin")}
        say(json.dumps({"run": shown(result.run), **result.origin.row(), **figures}))
    else:
        say(*_evaluation_lines(result))
    return 0 if result.ended else BAD_INPUT


def _as_json(value: Any) -> Any:
    """Returns null for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _evaluation_lines(result: Any) -> list[str]:
    lines = [f"{result.episodes} episodes: "]
    if result.ended < result.episodes:
        limit = f"within {result.max_steps:,} steps each"
        lines = [f"{result.ended} of {result.episodes} episodes ended {limit}: "]
    if result.ended:
        lines[0] += (
            f"mean return {result.mean_return:.3f} ± {result.std_return:.3f}, mean length {result.mean_length:.1f}"
        )
    else:
        lines[0] += "there is no return to report"
    if result.ended < result.episodes:
        if result.ended:
            lines.append("That is the mean of the shorter episodes alone: long ones were given up.")
        lines.append(f"Those given up had a mean return of {result.mean_return_so_far:.3f} until then.")
        lines.append("--max-steps N waits longer; train with env.max_episode_steps=N where episodes have no end.")
    return lines


def _evaluate_supervised(run: Any, options: argparse.Namespace) -> int:
    from ntm_rl.agents.inspection.evaluation import evaluate_supervised

    difficulties = [_difficulty(text) for text in options.difficulty]
    result = evaluate_supervised(run, options.episodes, difficulties, seed=options.seed, best=options.best)
    if options.json:
        scores = {name: vars(score) for name, score in result.scores.items()}
        say(json.dumps({"run": shown(run.path), **result.origin.row(), "scores": scores}))
        return 0
    for name, score in result.scores.items():
        above = f" ({score.bits - score.floor:.3f} above the optimum)" if score.floor else ""
        say(f"{name}: {score.bits:.4f} bits per sequence{above}, {score.wrong:.3%} of bits wrong")
    return 0


def _difficulty(text: str) -> dict[str, int]:
    """Reads `length=10,repeats=20`."""
    try:
        pairs = [(name, int(value)) for name, value in (part.split("=") for part in text.split(","))]
    except ValueError as error:
        raise InputError(f"--difficulty {text}: must be like length=10,repeats=20") from error
    if len(dict(pairs)) < len(pairs):
        raise InputError(f"--difficulty {text}: a name is there twice; give --difficulty once for each difficulty")
    return dict(pairs)


def _inspect(options: argparse.Namespace) -> int:
    from ntm_rl.agents.inspection.figures import inspect
    from ntm_rl.agents.runs.run import Run

    runs = [Run.open(folder) for folder in (options.run, *options.others)]
    for run in runs:
        run.require_trust(trust=options.trust)
    files = {name: shown(file) for name, file in inspect(runs[0], runs[1:]).items()}
    say(*([json.dumps(files)] if options.json else files.values()))
    return 0


def _record(options: argparse.Namespace) -> int:
    from ntm_rl.agents.inspection.video import record
    from ntm_rl.agents.runs.run import Run

    run = Run.open(options.run)
    run.require_trust(trust=options.trust)
    result = record(
        run,
        options.out,
        options.episodes,
        seed=options.seed,
        deterministic=not options.stochastic,
        best=options.best,
        max_steps=options.max_steps,
    )
    if options.json:
        row = {
            "path": shown(result.path),
            **result.origin.row(),
            "returns": [*map(_as_json, result.returns)],
            "steps": result.steps,
        }
        say(json.dumps(row))
    else:
        returns = f"returns {', '.join(f'{each:g}' for each in result.returns)}" if result.returns else "no return"
        ended = f"{len(result.returns)} of {options.episodes} episodes ended"
        say(f"{shown(result.path)}: {result.steps:,} steps, {ended}, {returns}")
    return 0


def _list(options: argparse.Namespace) -> int:
    rows: list[str] = {"envs": _envs, "cores": _cores, "configs": _configs}[options.what]()
    say(*([json.dumps(rows)] if options.json else rows))
    return 0


def _envs() -> list[str]:
    import gymnasium

    from ntm_rl.envs.factory import import_family
    from ntm_rl.envs.names import FAMILIES, is_legacy_atari

    for prefix in FAMILIES:
        try:
            import_family(prefix)
        except InputError as error:
            print(f"not listed: {error}", file=sys.stderr)
    return sorted(env_id for env_id in gymnasium.registry if not is_legacy_atari(env_id))


def _cores() -> list[str]:
    return list(ntm_rl.core_names())


def _configs() -> list[str]:
    from ntm_rl.agents.settings.loading import config_names

    return config_names()


def _show(options: argparse.Namespace) -> int:
    from ntm_rl.agents.settings.loading import describe_keys, load_settings, to_yaml

    settings = load_settings(options.config, options.overrides)
    if not options.keys:
        say(to_yaml(settings).rstrip("\n"))
        return 0
    for key, kind, default, sentence in describe_keys(settings):
        say(f"{key}: {kind} = {default}\n    {sentence}")
    return 0


def _copy(options: argparse.Namespace) -> int:
    from ntm_rl.agents.settings.loading import config_text
    from ntm_rl.agents.storage.files import write_atomically

    text, target = config_text(options.config), options.file
    if target.exists():
        raise InputError(f"file = {str(target)!r}: exists already; choose another name or delete it")
    write_atomically(target, text.encode())
    say(f"Next: ntm-rl train {shlex.quote(str(target))}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from ntm_rl.agents.ppo.sb3_zip import convert

    convert(options.file, options.folder, trust=options.trust)
    say(f"{options.folder}: load it with ntm_rl.agents.load_agent")
    return 0
