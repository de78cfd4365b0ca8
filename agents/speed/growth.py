"""The growth benchmark: the cost of the NTM and of an LSTM of the same hidden size as a single size varies.

Times are CPU times of one thread, which other load distorts less than wall-clock times.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ntm_rl.agents.inspection.plotting import require_matplotlib, save_png
from ntm_rl.agents.speed.timing import REPEAT_PREVIOUS, alternate, make_training, training_step
from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError, did_you_mean

INPUTS, HIDDEN = 64, 128
BASE = {"steps": 32, "batch": 16, "slots": 32, "width": 16}
OF_BOTH = ("steps", "batch")  # an LSTM has no other size
ROLLOUT, MINIBATCHES = 128, 4


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        axis: Name of the varied size.
        value: Value of the size.
        ours: Measurement of the NTM, median over the repeats.
        peer: Measurement of the LSTM.
        unit: Unit of both.
    """

    axis: str
    value: int
    ours: float
    peer: float
    unit: str


@dataclass(frozen=True)
class Axis:
    """A varied size: its label, its values, and the function `measure(name, values, repeats)`."""

    label: str
    values: Sequence[int]
    measure: Callable[[str, Sequence[int], int], list[Point]]


def growth(only: str | None = None, repeats: int = 15) -> Iterator[Point]:
    """Yields the points of all axes, or of one, as they are measured, on one torch thread.

    Args:
        only: Name of a single axis.
        repeats: Measurements per point.

    Raises:
        InputError: unknown axis.
    """
    if only is not None and only not in AXES:
        raise InputError(f"only = {only!r}: unknown axis; valid are {', '.join(AXES)}.{did_you_mean(only, AXES)}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, axis in AXES.items():
        if only in (None, name):
            yield from axis.measure(name, axis.values, repeats)
    torch.set_num_threads(before)


def _sequences(axis: str, values: Sequence[int], repeats: int) -> list[Point]:
    """µs per step, forward and backward; measurements alternate, so that other load affects all values alike."""
    sizes = [{**BASE, axis: value} for value in values]
    ntm = [_ntm(**size) for size in sizes]
    lstm = [_lstm(size["steps"], size["batch"]) for size in (sizes if axis in OF_BOTH else [BASE])]
    seconds = alternate(repeats, *ntm, *lstm, clock=time.process_time)
    ours, peers = seconds[: len(ntm)], seconds[len(ntm) :]
    if len(peers) == 1:
        peers *= len(ours)
    return [
        Point(axis, value, 1e6 * our_seconds / size["steps"], 1e6 * peer_seconds / size["steps"], "µs/step")
        for value, size, our_seconds, peer_seconds in zip(values, sizes, ours, peers, strict=True)
    ]


def _ntm(steps: int, batch: int, slots: int, width: int) -> Callable[[], object]:
    core = make_core("ntm", INPUTS, slots=slots, width=width, hidden_size=HIDDEN)
    return training_step(core, torch.randn(steps, batch, INPUTS))


def _lstm(steps: int, batch: int) -> Callable[[], object]:
    network, block = nn.LSTM(INPUTS, HIDDEN), torch.randn(steps, batch, INPUTS)
    return lambda: network(block)[0].sum().backward()


def _trainings(axis: str, values: Sequence[int], repeats: int) -> list[Point]:
    """Environment steps per second of MemoryPPO, one rollout per repeat."""
    sizes = [(core, n_envs) for n_envs in values for core in ("ntm", "lstm")]
    seconds = alternate(repeats, *(_training(*size) for size in sizes), clock=time.process_time)
    speeds = [ROLLOUT * n_envs / taken for (_, n_envs), taken in zip(sizes, seconds, strict=True)]
    return [Point(axis, *row, "steps/s") for row in zip(values, speeds[::2], speeds[1::2], strict=True)]


def _training(core: str, n_envs: int) -> Callable[[], object]:
    model = make_training(core, REPEAT_PREVIOUS, n_envs, batch_size=ROLLOUT * n_envs // MINIBATCHES)
    return lambda: model.learn(ROLLOUT * n_envs)


def _powers(first: int, last: int) -> list[int]:
    return [2**power for power in range(first.bit_length() - 1, last.bit_length())]


AXES: dict[str, Axis] = {
    "slots": Axis("slots N", _powers(16, 1024), _sequences),
    "width": Axis("width M of a slot", _powers(8, 128), _sequences),
    "steps": Axis("steps T of a sequence", _powers(8, 256), _sequences),
    "batch": Axis("sequences in a batch", _powers(1, 256), _sequences),
    "envs": Axis("environments of a training", _powers(8, 128), _trainings),
}


def check_plot(file: Path) -> None:
    """Raises an `InputError` if `plot` would fail; to be called before minutes of measurements."""
    option = f"plot = {str(file)!r}"
    if file.suffix != ".png":
        raise InputError(f"{option}: must end in .png")
    if not file.parent.is_dir():
        raise InputError(f"{option}: no such folder {str(file.parent)!r}")
    require_matplotlib(option)


def plot(points: Sequence[Point], file: Path) -> None:
    """Plots the points as a PNG, one panel per axis.

    Raises:
        InputError: see `check_plot`.
    """
    check_plot(file)
    from matplotlib.figure import Figure

    names = [name for name in AXES if any(point.axis == name for point in points)]
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    for place, name in enumerate(names, 1):
        on_axis = [point for point in points if point.axis == name]
        values = [point.value for point in on_axis]
        panel = figure.add_subplot(rows, columns, place)
        panel.plot(values, [point.ours for point in on_axis], "o-", label="NTM")
        panel.plot(values, [point.peer for point in on_axis], "s--", label="LSTM")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        measured = [each for point in on_axis for each in (point.ours, point.peer)]
        panel.set_ylim(2 ** math.floor(math.log2(min(measured))), 2 ** math.ceil(math.log2(max(measured))))
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.set_xticks(values, [str(value) for value in values])
        panel.set_xlabel(AXES[name].label)
        panel.set_ylabel(on_axis[0].unit)
        panel.grid(alpha=0.3)
        panel.legend()
    save_png(figure, Path(file))
