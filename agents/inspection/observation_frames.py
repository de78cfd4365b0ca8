"""Frames of environments that do not render: the observation as an image, or its numbers as bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntm_rl.agents.inspection.frames import Frame, FrameConverter
from ntm_rl.agents.inspection.naming import Part

WIDTH, MARGIN, LINE, LABEL, NUMBER = 384, 8, 16, 120, 64  # pixels
MAX_BARS = 22
TEXT, RAIL, BAR = (255, 255, 255), (40, 44, 52), (64, 183, 173)


class ObservationDrawer:
    """Draws the observations of an episode.

    Args:
        parts: The parts of the observations; the first image is shown, else the numbers of all.
    """

    def __init__(self, parts: Sequence[Part]):
        self._parts, self._converter = parts, FrameConverter()
        self._image = next((part for part in parts if part.is_image), None)
        self._largest: dict[str, float] = {}  # largest absolute number of each part so far

    @property
    def has_image(self) -> bool:
        """Whether the observations have an image."""
        return self._image is not None

    def draw(self, observation: Any) -> Frame:
        """Returns the frame of a batch of one observation."""
        if self._image is not None:
            return self._converter.convert(_channels_last(self._image.array(observation)))
        return self._draw_bars(observation)

    def _draw_bars(self, observation: Any) -> Frame:
        from PIL import Image, ImageDraw

        rows = [
            (part, label, float(number))
            for part in self._parts
            for label, number in zip(part.labels, np.nan_to_num(part.numbers(observation)), strict=True)
        ]
        for part, _, number in rows:
            self._largest[part.name] = max(self._largest.get(part.name, 1.0), abs(number))
        image = Image.new("RGB", (WIDTH, 2 * MARGIN + LINE * (1 + min(len(rows), MAX_BARS))))
        pen = ImageDraw.Draw(image)
        for index, (part, label, number) in enumerate(rows[:MAX_BARS]):
            top, left, right = MARGIN + LINE * index, MARGIN + LABEL, WIDTH - NUMBER
            middle = (left + right) / 2
            end = middle + number / self._largest[part.name] * (right - left) / 2
            pen.text((MARGIN, top), _ascii(label if len(self._parts) == 1 else f"{part.name} {label}"), fill=TEXT)
            pen.rectangle((left, top + 3, right, top + LINE - 4), fill=RAIL)
            pen.rectangle((min(middle, end), top + 3, max(middle, end), top + LINE - 4), fill=BAR)
            pen.text((right + MARGIN, top), f"{number:.3g}", fill=TEXT)
        if len(rows) > MAX_BARS:
            pen.text((MARGIN, image.height - MARGIN - LINE), f"and {len(rows) - MAX_BARS} more", fill=TEXT)
        return np.asarray(image)


def _ascii(text: str) -> str:
    """Returns a short text that Pillow's default font has all letters of."""
    return text.encode("ascii", "replace").decode()[:18]


def _channels_last(image: NDArray[Any]) -> NDArray[Any]:
    """Returns the newest frame of an image `[C, H, W]` or `[H, W, C]`, whose channels may be stacked frames."""
    channels = image if image.shape[0] < image.shape[-1] else np.moveaxis(image, -1, 0)
    newest: NDArray[Any] = np.moveaxis(channels[-3:] if len(channels) % 3 == 0 else channels[-1:], 0, -1)
    return newest
