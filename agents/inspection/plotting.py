"""Figures as PNG files, with matplotlib where it is installed, and weightings at the resolution of a picture."""

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


def require_matplotlib(what: str) -> None:
    """Raises an `InputError` with the command that installs matplotlib where it is missing."""
    if find_spec("matplotlib") is None:
        raise InputError(f'{what}: matplotlib is not installed; run: pip install "ntm-rl[plot]"')


def save_png(figure: "Figure", path: Path, dpi: int = 80) -> None:
    """Writes a figure.

    Raises:
        StorageError: the file could not be written.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    write_atomically(path, image.getvalue())


def curve_marker(steps: Sequence[float] | NDArray[np.float64]) -> str:
    """Returns the marker of a curve: a dot for a single point, which a line does not show."""
    return "." if steps[0] == steps[-1] else ""


def pool_slots(weightings: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Returns weightings `[..., N]` as `[..., R]` with R of at most `rows`: maxima of neighbouring slots.

    A picture of fewer rows than slots would otherwise leave out sharp weightings.
    """
    slots = weightings.shape[-1]
    size = -(-slots // rows)
    padded = np.pad(weightings, [(0, 0)] * (weightings.ndim - 1) + [(0, -slots % size)])
    pooled: NDArray[np.float32] = padded.reshape(*weightings.shape[:-1], -1, size).max(axis=-1)
    return pooled
