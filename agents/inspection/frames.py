"""Converts rendered frames of any format to RGB."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntm_rl.errors import InputError

Frame = NDArray[np.uint8]
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA (alpha is dropped)
MAX_PIXELS = 2048  # height or width above which a frame is subsampled


class FrameError(InputError):
    """`render` did not return an image."""


class FrameConverter:
    """Converts the frames that `render` returns to RGB `[H, W, 3]` of uint8.

    Frames may be grey, RGB or RGBA, channels first or last, of integers, booleans or floats. Of a list of frames the
    last is taken. Floats range from 0 to 1, or to 255 from the first frame that exceeds 1.
    """

    def __init__(self) -> None:
        self._scale = 255.0  # factor of float frames

    def convert(self, frame: Any) -> Frame:
        """Returns a frame as RGB.

        Raises:
            FrameError: not an image.
        """
        if isinstance(frame, (list, tuple)) and not (frame and isinstance(frame[-1], (list, tuple))):
            frame = frame[-1] if frame else None
        if frame is None:
            raise FrameError("render() returned None")
        return self._colours(_as_array(frame))

    def _colours(self, array: NDArray[Any]) -> Frame:
        array = self._bytes(_channels_last(array))
        return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]

    def _bytes(self, array: NDArray[Any]) -> Frame:
        if array.dtype == np.uint8:
            return array
        if array.dtype.kind == "b":
            return array.astype(np.uint8) * np.uint8(255)
        if array.dtype.kind == "f":
            array = np.nan_to_num(array.astype(np.float32), posinf=0.0, neginf=0.0)
            if array.max() > 1:
                self._scale = 1.0
            array = array * self._scale
        clipped: Frame = np.clip(array, 0, 255).astype(np.uint8)
        return clipped


def _as_array(frame: Any) -> NDArray[Any]:
    try:
        array = np.asarray(frame)
    except Exception as error:  # ragged lists, tensors on another device
        raise FrameError(f"render() returned a {type(frame).__name__}, not an array: {error}") from error
    if array.dtype.kind not in "uifb" or array.size == 0 or array.ndim == 0:
        found = f"a {type(frame).__name__}" if array.ndim == 0 else f"an array {array.shape} of {array.dtype}"
        raise FrameError(f"render() returned {found}, not an image")
    return array


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """Returns a frame of any layout as `[H, W, C]` with 1, 3 or 4 channels, subsampled if huge."""
    shape = array.shape
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in CHANNELS:
        raise FrameError(
            f"render() returned an array of shape {shape}: must be [height, width], or that with 1, 3 or 4 channels"
        )
    return array[:: 1 + array.shape[0] // MAX_PIXELS, :: 1 + array.shape[1] // MAX_PIXELS]
