"""Saves matplotlib figures, and pools weightings to the resolution of an image."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 80


def require_matplotlib(feature: str) -> None:
    """Raises an `InputError` with the pip command if matplotlib, which `feature` needs, is not installed."""
    if find_spec("matplotlib") is None:
        raise InputError(f'{feature}: matplotlib is not installed; run: pip install "ntm-rl[plot]"')


def save_png(figure: "Figure", path: Path) -> None:
    """Writes a figure as a PNG file.

    Raises:
        StorageError: the file could not be written.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    write_atomically(path, image.getvalue())


def curve_marker(steps: Sequence[float] | NDArray[np.float64]) -> str:
    """Returns the marker of a curve: a dot for a single point, which a line does not show."""
    return "." if steps[0] == steps[-1] else ""


def pool_slots(weightings: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Returns weightings `[..., N]` as `[..., R]` with R of at most `rows`: maxima of neighbouring slots.

    Subsampling the slots instead would leave out sharp weightings.
    """
    slots = weightings.shape[-1]
    size = -(-slots // rows)
    padded = np.pad(weightings, [(0, 0)] * (weightings.ndim - 1) + [(0, -slots % size)])
    pooled: NDArray[np.float32] = padded.reshape(*weightings.shape[:-1], -1, size).max(axis=-1)
    return pooled
