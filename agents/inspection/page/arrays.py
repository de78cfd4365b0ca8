"""Packs the arrays of a page into one compressed text."""

import base64
import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.inspection.page.colours import LEVELS, Scale

ALIGNMENT = 4  # bytes, as JavaScript's typed arrays require


@dataclass
class ArrayPacker:
    """Collects arrays; `loadArrays` in numbers.js reads them by the descriptions that `add` returns."""

    _blocks: list[bytes] = field(default_factory=list)
    _size: int = 0

    def add(self, array: NDArray[Any]) -> dict[str, Any]:
        """Adds numbers as they are: integers as int32, others as float32.

        Returns:
            A description for the page, JSON values.
        """
        kind = "i4" if array.dtype.kind in "iub" else "f4"
        return {**self._append(array.astype(f"<{kind}")), "type": kind}

    def add_heat(
        self, array: NDArray[np.float32], scale: Scale, *, limits: tuple[float, float] | None = None, power: float = 1
    ) -> dict[str, Any]:
        """Adds numbers `[T, ...]` as one of `LEVELS` colours each.

        Args:
            array: Numbers; NaN counts as 0.
            scale: "sequential", from the lower to the upper limit, or "diverging", the same on both sides of 0.
            limits: Smallest and largest number; None: those of the array.
            power: The numbers of the levels grow with this power, so that small ones have more levels.
        """
        low, high = limits or _limits(array, scale)
        span = high - low
        shares = np.clip((np.nan_to_num(array, posinf=high, neginf=low) - low) / span, 0, 1)
        levels = np.rint((LEVELS - 1) * shares ** (1 / power)).astype(np.uint8)
        # Differences between steps, as most numbers hardly change.
        differences = np.diff(levels, axis=0, prepend=np.zeros_like(levels[:1]))
        described = {"type": "u1", "scale": scale, "low": low, "high": high, "power": power}
        return {**self._append(differences), **described}

    def text(self) -> str:
        """Returns all arrays, compressed, in base64."""
        return base64.b64encode(zlib.compress(b"".join(self._blocks), 9)).decode()

    def _append(self, array: NDArray[Any]) -> dict[str, Any]:
        start, content = self._size, array.tobytes()
        content += bytes(-len(content) % ALIGNMENT)
        self._blocks.append(content)
        self._size += len(content)
        return {"start": start, "shape": list(array.shape)}


def _limits(array: NDArray[np.float32], scale: Scale) -> tuple[float, float]:
    finite = array[np.isfinite(array)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if scale == "diverging":
        high = max(abs(low), abs(high))
        low = -high
    return (
        (low, high)
        if math.isfinite(high - low) and high > low
        else (low, low + 1.0)
        if scale == "sequential"
        else (-1.0, 1.0)
    )
