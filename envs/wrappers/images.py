"""Which observations are images, and how convolutions want them: channels first, bytes or numbers from 0 to 1."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SMALLEST = 8  # height and width below which floats, or bytes without a channel axis, are a table and not an image
CLEARLY = 16  # height and width from which other numbers are more likely an image than a board or a table
MOST_CHANNELS = 32  # of floats; more are planes of features
COLOURS = (1, 3, 4)  # channels of one frame: grey, RGB, RGB with depth or alpha


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether convolutions read a space as it is: bytes from 0 to 255 `[C, H, W]`, or floats from 0 to 1.

    Bytes may also be `[H, W, C]`, which SB3 transposes.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return False
    if space.dtype == np.uint8:
        return _bounds(space) == (0, 255)
    return _bounds(space) == (0, 1) and space.dtype.kind == "f" and _is_frame(space.shape[1:], space.shape[0])


def looks_like_image(space: spaces.Space[Any]) -> bool:
    """Whether numbers have the shape of an image, though not the bounds or the channels of one that is read as such."""
    if not isinstance(space, spaces.Box) or is_image(space):
        return False
    shape = space.shape
    if len(shape) == 2:
        return min(shape) >= CLEARLY and _bounds(space) in ((0, 1), (0, 255))
    if len(shape) not in (3, 4):
        return False
    frames = (shape[-2:], shape[-3]), (shape[-3:-1], shape[-1])
    return any(_is_frame(size, channels) and min(size) >= CLEARLY for size, channels in frames)


class ImageReader:
    """Makes an observation that is an image one that convolutions read.

    Bytes from 0 to 255 stay bytes; floats between two finite bounds are scaled to 0 to 1. Channels come first: those
    of `[H, W, C]` are moved, `[H, W]` gets one (bytes only), and stacked frames `[N, H, W, C]` become `[N * C, H, W]`.

    Args:
        space: An observation's space for which `ImageReader.fits`.

    Attributes:
        space: Of the images that `read` returns.
        changes: Whether they differ from what `read` is given.
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
        """Whether observations of a space are images."""
        return isinstance(space, spaces.Box) and _layout(space) is not None

    def read(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Returns the image `[C, H, W]`."""
        image = np.asarray(observation)
        if self._low is not None:
            image = ((image - self._low) / self._range).astype(np.float32)
        return np.ascontiguousarray(image.transpose(self._axes)).reshape(self.space.shape)


def _layout(space: spaces.Box) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the order of the axes and the shape of an image `[C, H, W]`; None: it is no image."""
    shape, bounds = space.shape, _bounds(space)
    is_bytes = space.dtype == np.uint8 and bounds == (0, 255)
    is_floats = space.dtype.kind == "f" and bounds in ((0, 1), (-1, 1), (0, 255))
    if is_bytes and len(shape) == 2 and min(shape) >= SMALLEST:
        return (0, 1), (1, *shape)
    if is_bytes and len(shape) == 3:  # SB3's rule: any shape, and the smallest of three is the channels
        return ((0, 1, 2), shape) if np.argmin(shape) == 0 else ((2, 0, 1), (shape[2], *shape[:2]))
    if is_floats and len(shape) == 3 and _is_frame(shape[1:], shape[0]):
        return (0, 1, 2), shape
    if is_floats and len(shape) == 3 and _is_frame(shape[:2], shape[2]):
        return (2, 0, 1), (shape[2], *shape[:2])
    if (is_bytes or is_floats) and len(shape) == 4:
        if shape[3] in COLOURS and _is_frame(shape[1:3], shape[0] * shape[3]):
            return (0, 3, 1, 2), (shape[0] * shape[3], *shape[1:3])
        if shape[1] in COLOURS and _is_frame(shape[2:], shape[0] * shape[1]):
            return (0, 1, 2, 3), (shape[0] * shape[1], *shape[2:])
    return None


def _is_frame(size: tuple[int, ...], channels: int) -> bool:
    return min(size) >= SMALLEST and channels <= MOST_CHANNELS and channels < min(size)


def _bounds(space: spaces.Box) -> tuple[float, float] | None:
    """Returns the bounds of all elements of a space; None: they differ."""
    if 0 in space.shape:
        return None
    low, high = space.low.flat[0], space.high.flat[0]
    return (float(low), float(high)) if (space.low == low).all() and (space.high == high).all() else None
