"""Figures of a run: learning curve, answers and memory use."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.logger import Figure as LoggedFigure

from ntm_rl.agents.inspection.plotting import curve_marker, pool_slots, require_matplotlib, save_png
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.loading import load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.kinds import SUPERVISED
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.supervised.scores import label
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Batch, Difficulty
from ntm_rl.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float32]
SEED = 10_000
MAX_ROWS = 160  # rows of a panel of weightings
LOWEST_SHOWN = 1e-4  # lower end, in bits, of a learning curve's logarithmic axis


class MemoryUse(NamedTuple):
    """Weightings and vectors of the heads over one sequence of T steps.

    Attributes:
        weightings: `[T, N]` by the head's name.
        vectors: Sums of the slots weighted by each head, `[T, M]`: the read vectors of a read head, the contents after
            the writes of a write head. Empty for a core whose memory has no slots.
    """

    weightings: dict[str, FloatArray]
    vectors: dict[str, FloatArray]


def inspect(run: Run, others: Sequence[Run] = ()) -> dict[str, Path]:
    """Draws a run's figures into its folder `figures/` and logs them to its W&B run, if any.

    Args:
        run: A supervised run, or a PPO run, which has a learning curve only.
        others: Further runs for the learning curve, such as other seeds.

    Returns:
        The PNG files by name.

    Raises:
        InputError: matplotlib is missing, or a run has no logged metrics or no network.
    """
    require_matplotlib("inspect")
    figures = {"learning_curve": learning_curve([run, *others])}
    is_supervised = run.settings().kind is SUPERVISED
    if is_supervised:
        settings = run.supervised_settings()
        settings.import_core()
        network, origin = load_run_network(run)
        print(f"draws {origin}", file=sys.stderr)
        figures |= network_figures(network, settings)
    folder = run.make_folder("figures")
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        save_png(figure, paths[name])
    if is_supervised:
        _log_to_wandb(run, figures)
    return paths


def network_figures(network: SequenceNetwork, settings: SupervisedTrainingSettings) -> "dict[str, Figure]":
    """Draws a network's answers and, if its core has weightings, its memory use."""
    task, hardest = settings.make_task(), _hardest(settings)
    rng = np.random.default_rng(SEED)
    figures = {"answers": answers(network, task, [hardest, *settings.validation.longer], rng)}
    if network.core.has_weightings():
        figures["memory_use"] = memory_use(network, task.sample(1, rng, hardest))
    else:
        print(f"note: core {settings.core_name!r} has no weightings: memory_use is not drawn", file=sys.stderr)
    return figures


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
        batch = task.sample(1, rng, difficulty)
        mask = batch.mask[:, 0]
        answered = _answers(network, batch)
        wrong = ((answered > 0.5) != (batch.targets[:, 0] > 0))[mask].sum()
        for place, (name, block) in enumerate({"targets": batch.targets[:, 0], "answers": answered}.items()):
            panel = figure.add_subplot(2 * len(difficulties), 1, 2 * row + place + 1)
            _show(panel, block[mask], name)
            if place == 0:
                panel.set_title(f"{label(difficulty)}: {wrong} of {mask.sum() * task.output_size} bits wrong", size=8)
    return figure


def memory_use(network: SequenceNetwork, batch: Batch) -> "Figure":
    """Draws each head's weighting and vector over one sequence, as in figure 6 of the NTM paper.

    Args:
        network: A network whose core has weightings.
        batch: A batch of one sequence.
    """
    from matplotlib.figure import Figure

    use = trace(network, batch.inputs)
    heads = len(use.weightings)
    panels = {(0, 0): ("inputs", batch.inputs[:, 0]), (0, 1): ("answers", _answers(network, batch) * batch.mask)}
    for row, (name, weighting) in enumerate(use.weightings.items(), start=1):
        if name in use.vectors:
            panels[row, 0] = f"{name}: vector", use.vectors[name]
        panels[row, 1] = f"{name}: weighting", pool_slots(weighting, MAX_ROWS)
    figure = Figure(figsize=(9, 1.5 + 2.5 * heads), layout="constrained")
    grid = figure.add_gridspec(1 + heads, 2, height_ratios=(1, *[2.5] * heads))
    for (row, column), (name, block) in panels.items():
        panel = figure.add_subplot(grid[row, column])
        _show(panel, block, name)
        if row == heads:
            panel.set_xlabel("step")
    return figure


def trace(network: SequenceNetwork, inputs: FloatArray) -> MemoryUse:
    """Returns the weightings and vectors of every step of one sequence of inputs `[T, 1, I]`."""
    core = network.core
    state, weightings, vectors = core.initial_state(1), defaultdict(list), defaultdict(list)
    with torch.no_grad():
        for step in torch.from_numpy(inputs).unsqueeze(1):
            _, state = core(step, state)
            memory = core.memory(state)
            for name, weighting in core.weightings(state).items():
                weightings[name].append(weighting[0].numpy())
                if memory is not None:
                    vectors[name].append((weighting[0] @ memory[0]).numpy())
    return MemoryUse(*({name: np.stack(rows) for name, rows in each.items()} for each in (weightings, vectors)))


def _answers(network: SequenceNetwork, batch: Batch) -> FloatArray:
    """Returns a network's answers to one sequence as probabilities `[T, O]`."""
    with torch.no_grad():
        answers: FloatArray = torch.sigmoid(network(torch.from_numpy(batch.inputs)))[:, 0].numpy()
    return answers


def _hardest(settings: SupervisedTrainingSettings) -> Difficulty:
    return {name: high for name, (_, high) in settings.make_task().ranges.items()}


def _curve(run: Run, metric: str, steps: str) -> tuple[list[float], list[float]]:
    rows = [row for row in read_table(run.path / "progress.csv")[1] if row.get(metric)]
    if not rows:
        raise InputError(f"run = {str(run.path)!r}: progress.csv has no {metric} yet")
    try:
        return [float(row[steps]) for row in rows], [float(row[metric]) for row in rows]
    except (KeyError, ValueError) as error:
        raise InputError(f"{run.path / 'progress.csv'}: {metric} over {steps} must be numbers: {error}") from error


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
