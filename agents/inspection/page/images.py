"""Compresses the frames of an episode."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ntm_rl.agents.inspection.frames import Frame

MAX_SIDE = 320  # pixels
MAX_BYTES = 2_000_000  # of all frames of an episode of a page
QUALITIES = (None, 80, 60, 40)  # of WebP; None: lossless


def encode_frames(frames: Sequence[Frame], max_bytes: int = MAX_BYTES) -> dict[str, Any] | None:
    """Returns the distinct frames as data URLs, and the index of each step's frame; None without frames.

    Quality, then size are reduced until the frames fit into `max_bytes`.
    """
    if not frames:
        return None
    distinct: dict[bytes, int] = {}
    kept: list[Frame] = []
    index = []
    for frame in frames:
        key = frame.tobytes() + bytes(str(frame.shape), "ascii")
        if key not in distinct:
            distinct[key] = len(kept)
            kept.append(frame)
        index.append(distinct[key])
    side = MAX_SIDE
    while True:
        for quality in QUALITIES:
            encoded = _encode_all(kept, side, quality, max_bytes)
            if encoded is not None:
                urls = ["data:image/webp;base64," + base64.b64encode(each).decode() for each in encoded]
                height, width, _ = frames[0].shape
                return {"images": urls, "index": index, "width": width, "height": height}
        side //= 2


def _encode_all(frames: Sequence[Frame], side: int, quality: int | None, max_bytes: int) -> list[bytes] | None:
    """Returns encoded frames; None if they exceed `max_bytes`."""
    encoded, total = [], 0
    for frame in frames:
        encoded.append(_encode(frame, side, quality))
        total += len(encoded[-1])
        if total > max_bytes and side > 8:
            return None
    return encoded


def _encode(frame: Frame, side: int, quality: int | None) -> bytes:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame))
    largest = max(image.size)
    if largest > side:
        size = tuple(max(1, round(each * side / largest)) for each in image.size)
        image = image.resize(size, Image.Resampling.BOX)  # type: ignore[arg-type]
    content = io.BytesIO()
    if quality is None:
        image.save(content, "WEBP", lossless=True, quality=50, method=2)
    else:
        image.save(content, "WEBP", quality=quality, method=3)
    return content.getvalue()
