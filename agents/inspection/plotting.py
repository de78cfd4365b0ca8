"""Figures as PNG files, with matplotlib where it is installed."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    return find_spec("matplotlib") is not None


def require_matplotlib(what: str) -> None:
    """Raises an `InputError` that names the command which installs it, where matplotlib is missing."""
    if not has_matplotlib():
        raise InputError(f'{what}: matplotlib is not installed; run: pip install "ntm-rl[plot]"')


def save_png(figure: "Figure", path: Path, dpi: int = 80) -> None:
    """Writes a figure.

    Raises:
        StorageError: it could not be written.
    """
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    write_atomically(path, image.getvalue())
