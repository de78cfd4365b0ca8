"""Pictures of a run: its learning curve, its answers, and how it uses its memory."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.logger import Figure as LoggedFigure

from ntm_rl.agents.inspection.plotting import require_matplotlib, save_png
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.loading import load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.supervised.scores import label
from ntm_rl.agents.supervised.training import SEQUENCES
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.agents.tracking.metrics import STEPS
from ntm_rl.cores.ntm import Ntm, NtmState
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Batch, Difficulty
from ntm_rl.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float32]
SEED = 10_000
LOWEST_SHOWN = 1e-4  # bits below which a learning curve's logarithmic axis ends


class MemoryUse(NamedTuple):
    """What an NTM did with its memory in one sequence of T steps.

    Attributes:
        weightings: Of all heads, read heads first, `[T, K, N]`.
        adds: Add vectors of the write heads, `[T, W, M]`.
        reads: Read vectors, `[T, R, M]`.
    """

    weightings: FloatArray
    adds: FloatArray
    reads: FloatArray


def inspect(run: Run, others: Sequence[Run] = ()) -> dict[str, Path]:
    """Draws a run into its folder `figures/`, and sends the pictures to its W&B run if it has one.

    Args:
        run: A supervised run, or one of PPO, of which there is a learning curve alone.
        others: Runs whose learning curves join the first's, such as other seeds.

    Returns:
        The PNG files by name.

    Raises:
        InputError: matplotlib is missing, or a run has no progress or no network.
    """
    require_matplotlib("inspect")
    settings = run.settings()
    figures = {"learning_curve": learning_curve([run, *others])}
    if isinstance(settings, SupervisedTrainingSettings):
        network, origin = load_run_network(run)
        print(f"draws {origin}", file=sys.stderr)
        figures |= network_figures(network, settings)
    folder = run.make_folder("figures")
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        save_png(figure, paths[name])
    _send(run, settings, figures)
    return paths


def network_figures(network: SequenceNetwork, settings: SupervisedTrainingSettings) -> "dict[str, Figure]":
    """Draws a network's answers, and, if it is an NTM, how it uses its memory."""
    task, hardest = settings.make_task(), _hardest(settings)
    rng = np.random.default_rng(SEED)
    figures = {"answers": answers(network, task, [hardest, *settings.validation.longer], rng)}
    if isinstance(network.core, Ntm):
        figures["memory_use"] = memory_use(network, task.sample(1, rng, hardest))
    return figures


def learning_curve(runs: Sequence[Run]) -> "Figure":
    """Draws the runs' learning curves, and their median if there are several of one core and length.

    Raises:
        InputError: a run that logged nothing, or runs of both kinds.
    """
    settings = [run.settings() for run in runs]
    is_supervised = isinstance(settings[0], SupervisedTrainingSettings)
    for run, each in zip(runs, settings, strict=True):
        if isinstance(each, SupervisedTrainingSettings) != is_supervised:
            raise InputError(f"run = {str(run.path)!r}: one panel shows supervised runs or runs of PPO, not both")
    metric, steps = ("validation/bits_per_sequence", SEQUENCES) if is_supervised else ("rollout/ep_rew_mean", STEPS)
    figure, panel = _panel((6, 3.5))
    curves = [_curve(run, metric, steps) for run in runs]
    kinds = {(each.core, len(x)) for each, (x, _) in zip(settings, curves, strict=True)}
    has_median = len(runs) > 1 and len(kinds) == 1
    for name, (x, y) in zip(_names(runs, settings), curves, strict=True):
        panel.plot(x, y, linewidth=0.6 if has_median else 1, label=name)
    if has_median:
        panel.plot(curves[0][0], np.median([y for _, y in curves], axis=0), "k", linewidth=1.8, label="median")
    if is_supervised:
        panel.set_yscale("log")
        panel.set_ylim(bottom=max(LOWEST_SHOWN, panel.get_ylim()[0]))
    panel.set_xlabel("sequences" if is_supervised else "environment steps")
    panel.set_ylabel("bits per sequence" if is_supervised else "mean return")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7, ncols=2)
    return figure


def _names(runs: Sequence[Run], settings: Sequence[AnySettings]) -> list[str]:
    """Names runs by what tells them apart: their core, their seed, or else their folder."""
    cores, seeds = [each.core for each in settings], [f"seed {each.seed}" for each in settings]
    telling = [values for values in (cores, seeds) if len(set(values)) > 1]
    names = [", ".join(parts) for parts in zip(*telling, strict=True)]
    return names if len(set(names)) == len(runs) else [run.path.name for run in runs]


def answers(
    network: SequenceNetwork, task: AlgorithmicTask, difficulties: Sequence[Difficulty], rng: np.random.Generator
) -> "Figure":
    """Draws targets over answers (as probabilities) of a sequence of each difficulty."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.9 * len(difficulties)), layout="constrained")
    for row, difficulty in enumerate(difficulties):
        batch = task.sample(1, rng, difficulty)
        asked = batch.mask[:, 0]
        with torch.no_grad():
            said = torch.sigmoid(network(torch.from_numpy(batch.inputs)))[:, 0].numpy()
        wrong = ((said > 0.5) != (batch.targets[:, 0] > 0))[asked].sum()
        for place, (name, block) in enumerate({"targets": batch.targets[:, 0], "answers": said}.items()):
            panel = figure.add_subplot(2 * len(difficulties), 1, 2 * row + place + 1)
            _show(panel, block[asked], name)
            if place == 0:
                panel.set_title(f"{label(difficulty)}: {wrong} of {asked.sum() * task.output_size} bits wrong", size=8)
    return figure


def memory_use(network: SequenceNetwork, batch: Batch) -> "Figure":
    """Draws one sequence as figure 6 of the NTM paper: what is written where, and what is read from where.

    Args:
        network: With an NTM core.
        batch: Of one sequence.
    """
    from matplotlib.figure import Figure

    use = trace(network, batch.inputs)
    reads = use.reads.shape[1]
    with torch.no_grad():
        said = torch.sigmoid(network(torch.from_numpy(batch.inputs)))[:, 0].numpy() * batch.mask
    columns = (
        {"inputs": batch.inputs[:, 0], "adds": use.adds.sum(axis=1), "write weightings": use.weightings[:, reads:]},
        {"answers": said, "reads": use.reads.sum(axis=1), "read weightings": use.weightings[:, :reads]},
    )
    figure = Figure(figsize=(9, 7), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 2.5))
    for column, blocks in enumerate(columns):
        for row, (name, block) in enumerate(blocks.items()):
            panel = figure.add_subplot(grid[row, column])
            _show(panel, block.sum(axis=1) if block.ndim == 3 else block, name)
            if row == 2:
                panel.set_xlabel("step")
    return figure


def trace(network: SequenceNetwork, inputs: FloatArray) -> MemoryUse:
    """Follows an NTM through one sequence of inputs `[T, 1, I]`."""
    core = network.core
    if not isinstance(core, Ntm):
        raise InputError(f"core = {network.core_name!r}: has no heads to look at")
    state, weightings, adds, reads = core.initial_state(1), [], [], []
    with torch.no_grad():
        for step in torch.from_numpy(inputs).unsqueeze(1):
            _, state = core(step, state)
            parts: NtmState = core.unpack(state)
            weightings.append(parts.weightings[0])
            reads.append(parts.reads[0])
            adds.append(core.head_parameters(parts.hidden).adds[0])
    return MemoryUse(*(torch.stack(each).numpy() for each in (weightings, adds, reads)))


def _hardest(settings: SupervisedTrainingSettings) -> Difficulty:
    return {name: high for name, (_, high) in settings.make_task().ranges.items()}


def _curve(run: Run, metric: str, steps: str) -> tuple[list[float], list[float]]:
    rows = [row for row in read_table(run.path / "progress.csv")[1] if row.get(metric)]
    if not rows:
        raise InputError(f"run = {str(run.path)!r}: its progress.csv has no {metric} yet")
    try:
        return [float(row[steps]) for row in rows], [float(row[metric]) for row in rows]
    except (KeyError, ValueError) as error:
        raise InputError(f"{run.path / 'progress.csv'}: {metric} over {steps} must be numbers: {error}") from error


def _panel(size: tuple[float, float]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _show(panel: "Axes", block: FloatArray, name: str) -> None:
    """Shows a block `[T, C]`, time from left to right."""
    panel.imshow(block.T, aspect="auto", interpolation="nearest", cmap="viridis")
    panel.set_ylabel(name, size=8)
    panel.tick_params(labelsize=6)


def _send(run: Run, settings: AnySettings, figures: "Mapping[str, Figure]") -> None:
    """Sends figures to the W&B run of a run, if it was tracked."""
    if not (run.path / "wandb").is_dir() or not isinstance(settings, SupervisedTrainingSettings):
        return
    writer = run.track(settings, SEQUENCES, is_training=False)
    if writer is not None:
        values = {f"figures/{name}": LoggedFigure(figure, close=False) for name, figure in figures.items()}
        writer.write(values, {name: () for name in values}, settings.total_sequences)
        writer.close()
