"""Detects image observations and converts them for convolutions: channels first, bytes or floats from 0 to 1."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

MIN_SIZE = 8  # least height and width of an image of floats or of bytes without a channel axis
LIKELY_SIZE = 16  # height and width from which other arrays are more likely images than boards or tables
MAX_CHANNELS = 32  # of an image of floats; more are feature planes
FRAME_CHANNELS = (1, 3, 4)  # gray, RGB, RGB with depth or alpha


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space is an image for convolutions: bytes from 0 to 255 `[C, H, W]`, or floats from 0 to 1.

    Bytes may also be `[H, W, C]`, which SB3 transposes.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return False
    if space.dtype == np.uint8:
        return _bounds(space) == (0, 255)
    return _bounds(space) == (0, 1) and space.dtype.kind == "f" and _is_frame(space.shape[1:], space.shape[0])


def looks_like_image(space: spaces.Space[Any]) -> bool:
    """Whether a space has the shape of an image but not the bounds or channels with which it is read as one."""
    if not isinstance(space, spaces.Box) or is_image(space):
        return False
    shape = space.shape
    if len(shape) == 2:
        return min(shape) >= LIKELY_SIZE and _bounds(space) in ((0, 1), (0, 255))
    if len(shape) not in (3, 4):
        return False
    frames = (shape[-2:], shape[-3]), (shape[-3:-1], shape[-1])
    return any(_is_frame(size, channels) and min(size) >= LIKELY_SIZE for size, channels in frames)


class ImageReader:
    """Converts image observations for convolutions.

    Bytes stay bytes; floats are scaled to 0 to 1. Channels come first: `[H, W, C]` is transposed, `[H, W]` gets a
    channel (bytes only), and stacked frames `[N, H, W, C]` become `[N * C, H, W]`.

    Args:
        space: An observation space with `ImageReader.fits`.

    Attributes:
        space: Space of the converted images.
        changes: Whether the conversion changes them.
    """

    def __init__(self, space: spaces.Box):
        layout = _layout(space)
        assert layout is not None
        self._axes, shape = layout
        self._low, self._range = None, 1.0
        self.space: spaces.Box
        if space.dtype == np.uint8:
            self.space = spaces.Box(0, 255, shape, np.uint8)
        else:
            low, high = _bounds(space) or (0.0, 1.0)
            self._low, self._range = low, high - low
            self.space = spaces.Box(0, 1, shape, np.float32)
        self.changes = self.space != space

    @staticmethod
    def fits(space: spaces.Space[Any]) -> bool:
        """Whether the observations of a space are images."""
        return isinstance(space, spaces.Box) and _layout(space) is not None

    def read(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Returns the image `[C, H, W]`."""
        image = np.asarray(observation)
        if self._low is not None:
            image = ((image - self._low) / self._range).astype(np.float32)
        return np.ascontiguousarray(image.transpose(self._axes)).reshape(self.space.shape)


def _layout(space: spaces.Box) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the axis order and shape that convert to an image `[C, H, W]`; None if the space is not an image."""
    shape, bounds = space.shape, _bounds(space)
    is_bytes = space.dtype == np.uint8 and bounds == (0, 255)
    is_floats = space.dtype.kind == "f" and bounds in ((0, 1), (-1, 1), (0, 255))
    if is_bytes and len(shape) == 2 and min(shape) >= MIN_SIZE:
        return (0, 1), (1, *shape)
    if is_bytes and len(shape) == 3:  # SB3's rule: the smallest axis is the channels
        return ((0, 1, 2), shape) if np.argmin(shape) == 0 else ((2, 0, 1), (shape[2], *shape[:2]))
    if is_floats and len(shape) == 3 and _is_frame(shape[1:], shape[0]):
        return (0, 1, 2), shape
    if is_floats and len(shape) == 3 and _is_frame(shape[:2], shape[2]):
        return (2, 0, 1), (shape[2], *shape[:2])
    if (is_bytes or is_floats) and len(shape) == 4:
        if shape[3] in FRAME_CHANNELS and _is_frame(shape[1:3], shape[0] * shape[3]):
            return (0, 3, 1, 2), (shape[0] * shape[3], *shape[1:3])
        if shape[1] in FRAME_CHANNELS and _is_frame(shape[2:], shape[0] * shape[1]):
            return (0, 1, 2, 3), (shape[0] * shape[1], *shape[2:])
    return None


def _is_frame(size: tuple[int, ...], channels: int) -> bool:
    return min(size) >= MIN_SIZE and channels <= MAX_CHANNELS and channels < min(size)


def _bounds(space: spaces.Box) -> tuple[float, float] | None:
    """Returns the common bounds of all elements of a space; None if they differ."""
    if 0 in space.shape:
        return None
    low, high = space.low.flat[0], space.high.flat[0]
    return (float(low), float(high)) if (space.low == low).all() and (space.high == high).all() else None
