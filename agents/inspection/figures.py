"""Figures of a run: learning curve, answers and memory use."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from stable_baselines3.common.logger import Figure as LoggedFigure

from ntm_rl.agents.inspection.episode import NumericAction, PlayOptions, answer, play_run
from ntm_rl.agents.inspection.memory_trace import FloatArray, MemoryTrace
from ntm_rl.agents.inspection.plotting import curve_marker, pool_slots, require_matplotlib, save_png
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.loading import load_run_agent, load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.kinds import SUPERVISED
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import PpoTrainingSettings, SupervisedTrainingSettings
from ntm_rl.agents.storage.files import check_writable
from ntm_rl.agents.supervised.scores import label
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Difficulty
from ntm_rl.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 10_000
MAX_ROWS = 160  # rows of a panel of weightings
LOWEST_SHOWN = 1e-4  # lower end, in bits, of a learning curve's logarithmic axis


def inspect(run: Run, others: Sequence[Run] = ()) -> dict[str, Path]:
    """Draws a run's figures into its folder `figures/` and logs them to its W&B run, if any.

    Args:
        run: A supervised run, or a PPO run, of which an episode is played.
        others: Further runs for the learning curve, such as other seeds.

    Returns:
        The PNG files by name.

    Raises:
        InputError: matplotlib is missing, or a run has no logged metrics or no network.
        WriteError: a figure cannot be written.
    """
    require_matplotlib("inspect")
    figures, settings = {"learning_curve": learning_curve([run, *others])}, run.settings()
    folder = run.make_folder("figures")
    check_writable(folder / "learning_curve.png")
    settings.import_core()
    if isinstance(settings, SupervisedTrainingSettings):
        network, origin = load_run_network(run)
        print(f"draws {origin}", file=sys.stderr)
        figures |= network_figures(network, settings)
    elif isinstance(settings, PpoTrainingSettings):
        figures |= episode_figures(run, settings)
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        save_png(figure, paths[name])
    if settings.kind is SUPERVISED:
        _log_to_wandb(run, figures)
    return paths


def network_figures(network: SequenceNetwork, settings: SupervisedTrainingSettings) -> "dict[str, Figure]":
    """Draws a network's answers and, if its core has weightings, its memory use."""
    task, hardest = settings.make_task(), _hardest(settings)
    rng = np.random.default_rng(SEED)
    figures = {"answers": answers(network, task, [hardest, *settings.validation.longer], rng)}
    if network.core.has_weightings():
        answered = answer(network, task.sample(1, rng, hardest))
        masked = answered.answers * answered.mask[:, None]
        figures["memory_use"] = memory_use(answered.memory, {"inputs": answered.inputs, "answers": masked})
    else:
        _note_no_weightings(settings)
    return figures


def episode_figures(run: Run, settings: PpoTrainingSettings) -> "dict[str, Figure]":
    """Draws the memory use of an episode of a run's agent, if it can be played and its core has weightings."""
    try:
        agent = load_run_agent(run)
        if not agent.policy.core.has_weightings():
            _note_no_weightings(settings)
            return {}
        print(f"draws {agent.origin}", file=sys.stderr)
        (episode,), _ = play_run(agent, settings, PlayOptions(seed=SEED), with_frames=False)
    except InputError as error:  # the learning curve can still be drawn
        print(f"note: memory_use is not drawn: {error}", file=sys.stderr)
        return {}
    observations = [numbers for _, numbers in episode.observations]
    blocks = {"observation": np.concatenate(observations, axis=1)} if observations else {}
    if isinstance(episode.actions, NumericAction):
        blocks["action"] = episode.actions.taken
    else:
        blocks["action probabilities"] = np.concatenate([each.probabilities for each in episode.actions], axis=1)
    return {"memory_use": memory_use(episode.memory, blocks)}


def _note_no_weightings(settings: AnySettings) -> None:
    print(f"note: core {settings.core_name!r} has no weightings: memory_use is not drawn", file=sys.stderr)


def learning_curve(runs: Sequence[Run]) -> "Figure":
    """Draws the runs' learning curves, and their median for several runs of one core and length.

    Raises:
        InputError: a run without logged metrics, or runs of both kinds.
    """
    settings = [run.settings() for run in runs]
    kind = settings[0].kind
    for run, each in zip(runs, settings, strict=True):
        if each.kind is not kind:
            raise InputError(f"run = {str(run.path)!r}: a figure shows supervised runs or PPO runs, not both")
    figure, panel = _panel((6, 3.5))
    curves = [_curve(run, kind.score_metric, kind.steps_metric) for run in runs]
    groups = {(each.core, len(x)) for each, (x, _) in zip(settings, curves, strict=True)}
    has_median = len(runs) > 1 and len(groups) == 1
    for name, (x, y) in zip(_names(runs, settings), curves, strict=True):
        panel.plot(x, y, linewidth=0.6 if has_median else 1, label=name, marker=curve_marker(x))
    if has_median:
        panel.plot(curves[0][0], np.median([y for _, y in curves], axis=0), "k", linewidth=1.8, label="median")
    if kind is SUPERVISED:
        panel.set_yscale("log")
        panel.set_ylim(bottom=max(LOWEST_SHOWN, panel.get_ylim()[0]))
    panel.set_xlabel(kind.units)
    panel.set_ylabel(kind.score.replace("_", " "))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7, ncols=2)
    return figure


def _names(runs: Sequence[Run], settings: Sequence[AnySettings]) -> list[str]:
    """Names runs by their core and seed where these differ, else by their folder."""
    cores, seeds = [each.core for each in settings], [f"seed {each.seed}" for each in settings]
    differing = [values for values in (cores, seeds) if len(set(values)) > 1]
    names = [", ".join(parts) for parts in zip(*differing, strict=True)]
    return names if len(set(names)) == len(runs) else [run.path.name for run in runs]


def answers(
    network: SequenceNetwork, task: AlgorithmicTask, difficulties: Sequence[Difficulty], rng: np.random.Generator
) -> "Figure":
    """Draws targets and answers (probabilities) of one sequence per difficulty."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.9 * len(difficulties)), layout="constrained")
    for row, difficulty in enumerate(difficulties):
        answered = answer(network, task.sample(1, rng, difficulty))
        for place, name in enumerate(("targets", "answers")):
            panel = figure.add_subplot(2 * len(difficulties), 1, 2 * row + place + 1)
            _show(panel, getattr(answered, name)[answered.mask], name)
            if place == 0:
                bits = answered.mask.sum() * task.output_size
                panel.set_title(f"{label(difficulty)}: {answered.wrong} of {bits} bits wrong", size=8)
    return figure


def memory_use(memory: MemoryTrace, blocks: Mapping[str, FloatArray]) -> "Figure":
    """Draws each head's weighting and vectors over one sequence, as in figure 6 of the NTM paper.

    Args:
        memory: The memory over T steps of a core with heads.
        blocks: Numbers `[T, C]` by name to draw above, one on the left and one on the right.
    """
    from matplotlib.figure import Figure

    heads = len(memory.heads)
    panels = {(0, column): block for column, block in enumerate(blocks.items())}
    for row, (name, head) in enumerate(memory.heads.items(), start=1):
        if head.vectors is not None:
            panels[row, 0] = f"{name}: vector", head.vectors
        panels[row, 1] = f"{name}: weighting", pool_slots(head.weighting, MAX_ROWS)
    figure = Figure(figsize=(9, 1.5 + 2.5 * heads), layout="constrained")
    grid = figure.add_gridspec(1 + heads, 2, height_ratios=(1, *[2.5] * heads))
    for (row, column), (name, block) in panels.items():
        panel = figure.add_subplot(grid[row, column])
        _show(panel, block, name)
        if row == heads:
            panel.set_xlabel("step")
    return figure


def _hardest(settings: SupervisedTrainingSettings) -> Difficulty:
    return {name: high for name, (_, high) in settings.make_task().ranges.items()}


def _curve(run: Run, metric: str, steps: str) -> tuple[list[float], list[float]]:
    table = run.path / "progress.csv"
    if not table.exists():
        raise InputError(
            f"run = {str(run.path)!r}: no progress.csv, the log of the training, which `ntm-rl pull` does not "
            "download; `ntm-rl watch` shows an episode and the memory"
        )
    rows = [row for row in read_table(table)[1] if row.get(metric)]
    if not rows:
        raise InputError(f"run = {str(run.path)!r}: progress.csv has no {metric} yet")
    try:
        return [float(row[steps]) for row in rows], [float(row[metric]) for row in rows]
    except (KeyError, ValueError) as error:
        raise InputError(f"{table}: {metric} over {steps} must be numbers: {error}") from error


def _panel(size: tuple[float, float]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _show(panel: "Axes", block: FloatArray, name: str) -> None:
    """Shows a block `[T, C]` with time from left to right."""
    panel.imshow(block.T, aspect="auto", interpolation="nearest", cmap="viridis")
    panel.set_ylabel(name, size=8)
    panel.tick_params(labelsize=6)


def _log_to_wandb(run: Run, figures: "Mapping[str, Figure]") -> None:
    """Logs figures to a run's W&B run, if it has one."""
    if not (run.path / "wandb").is_dir():
        return
    settings = run.settings()
    writer = run.track(settings, is_training=False)
    if writer is not None:
        values = {f"figures/{name}": LoggedFigure(figure, close=False) for name, figure in figures.items()}
        writer.write(values, {name: () for name in values}, settings.total_steps)
        writer.close()
