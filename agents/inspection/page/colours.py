"""Colour tables of the heat maps: perceptually uniform, and readable by colour-blind people.

Lightness in OKLab (Ottosson 2020) changes linearly along each table, so that equal differences of the numbers look
equal and the order is visible without hues. The low end, or the middle of a diverging table, is near the background.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Theme = Literal["light", "dark"]
Scale = Literal["sequential", "diverging"]

LEVELS = 255  # colours of a table, an odd number, so that a diverging one has a middle
# From the background's hue over teal and blue to violet, as in seaborn's "mako".
DARK = ("#16191f", "#2b2342", "#413d7b", "#37659e", "#348fa7", "#40b7ad", "#8ad9b1", "#eafbee")
LIGHT = ("#f7faf8", "#cdeedd", "#8ad9b1", "#40b7ad", "#348fa7", "#37659e", "#413d7b", "#241733")
# Blue for negative numbers, orange for positive ones.
DARK_ENDS, LIGHT_ENDS = (
    (("#7fc4ff", "#3f7fc0"), ("#ffb267", "#b8651f")),
    (("#0b4f96", "#5c9bd6"), ("#a34700", "#e8934a")),
)
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def table(scale: Scale, theme: Theme) -> NDArray[np.uint8]:
    """Returns the colours of a scale, `[LEVELS, 3]`."""
    anchors, ends = (DARK, DARK_ENDS) if theme == "dark" else (LIGHT, LIGHT_ENDS)
    if scale == "sequential":
        return _ramp(anchors, LEVELS)
    negative, positive = (_ramp((anchors[0], *reversed(end)), LEVELS // 2 + 1) for end in ends)
    return np.concatenate([negative[:0:-1], positive])


def _ramp(colours: tuple[str, ...], count: int) -> NDArray[np.uint8]:
    """Returns `count` colours along some colours, at equal steps of lightness."""
    lab = np.stack([_to_lab(colour) for colour in colours])
    lightness = np.linspace(lab[0, 0], lab[-1, 0], count)
    order = np.argsort(lab[:, 0])
    others = [np.interp(lightness, lab[order, 0], lab[order, axis]) for axis in (1, 2)]
    return _to_bytes(np.stack([lightness, *others], axis=1))


def _to_lab(colour: str) -> NDArray[np.float64]:
    encoded = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lab: NDArray[np.float64] = TO_LAB @ np.cbrt(TO_LMS @ linear)
    return lab


def _to_bytes(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    linear = (lab @ np.linalg.inv(TO_LAB).T) ** 3 @ np.linalg.inv(TO_LMS).T
    linear = np.clip(linear, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rounded: NDArray[np.uint8] = np.rint(255 * encoded).astype(np.uint8)
    return rounded
