"""Renders a sequence: inputs, answers and targets."""

import numpy as np
from numpy.typing import NDArray

from ntm_rl.envs.algorithmic.task import BoolArray, FloatArray

CELL = 8  # pixels
GAP = 4
HIDDEN, BACKGROUND = 60, 90  # grey values
WRONG, NOW = (220, 60, 50), (250, 190, 40)


def render_image(
    inputs: FloatArray, targets: FloatArray, mask: BoolArray, answers: FloatArray, now: int, longest: int
) -> NDArray[np.uint8]:
    """Renders a sequence as three strips, time from left to right: inputs, answers (wrong bits in red), targets.

    Args:
        inputs: `[T, I]`.
        targets: `[T, O]`.
        mask: `[T]`, true in answer steps.
        answers: `[T, O]`.
        now: Current step; later inputs and answers are hidden, targets are not.
        longest: Steps of the longest sequence; shorter ones are padded to it.

    Returns:
        An image `[height, width, 3]` of the same size for all sequences of a task.
    """
    is_past = np.arange(len(mask)) < now
    is_seen = np.arange(len(mask)) <= now
    answered = mask & is_past
    strips = [
        _strip(inputs, is_seen),
        _strip(answers, answered, (answers != targets) & answered[:, None]),
        _strip(targets, mask),
    ]
    width = strips[0].shape[1]
    gap = np.full((GAP, width, 3), BACKGROUND, dtype=np.uint8)
    marker = gap.copy()
    marker[:, now * CELL : (now + 1) * CELL] = NOW
    image: NDArray[np.uint8] = np.concatenate([marker, strips[0], gap, strips[1], gap, strips[2], gap])
    empty = max(0, longest * CELL - width)
    return np.pad(image, ((0, 0), (0, empty), (0, 0)), constant_values=BACKGROUND)


def _strip(values: FloatArray, is_shown: BoolArray, is_wrong: BoolArray | None = None) -> NDArray[np.uint8]:
    """Renders values `[T, C]` as cells from black (0) to white (1); negative values are blue."""
    levels = np.clip(values, -1, 1)
    colors = np.repeat((255 * np.maximum(levels, 0))[..., None], 3, axis=2)
    colors[..., 2] = np.maximum(colors[..., 2], -255 * np.minimum(levels, 0))
    if is_wrong is not None:
        colors[is_wrong] = WRONG
    colors[~is_shown] = HIDDEN
    cells = colors.transpose(1, 0, 2).astype(np.uint8).repeat(CELL, axis=0).repeat(CELL, axis=1)
    cells[::CELL], cells[:, ::CELL] = BACKGROUND, BACKGROUND
    return cells


def render_text(inputs: FloatArray, targets: FloatArray, mask: BoolArray, answers: FloatArray, now: int) -> str:
    """Renders a sequence as text, one channel per line, time from left to right; arguments as `render_image`.

    Bits are `#` and `.`, other inputs their sign, wrong answers `x`, and hidden steps blank.
    """
    lines = ["inputs"]
    lines += _rows(inputs, np.arange(len(mask)) <= now)
    answered = mask & (np.arange(len(mask)) < now)
    lines += ["answers", *_rows(np.where(answers == targets, answers, np.nan), answered)]
    lines += ["targets", *_rows(targets, mask)]
    return "\n".join(lines) + "\n"


def _rows(values: FloatArray, is_shown: BoolArray) -> list[str]:
    def sign(value: float) -> str:
        if np.isnan(value):
            return "x"
        return "#" if value == 1 else "." if value == 0 else "+" if value > 0 else "-"

    return [
        "".join(sign(value) if shown else " " for value, shown in zip(channel, is_shown, strict=True)).rstrip()
        for channel in values.T
    ]
