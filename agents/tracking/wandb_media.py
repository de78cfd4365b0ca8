"""Figures, images, videos and pages for W&B."""

import io
from typing import Any

import numpy as np
import torch
import wandb
from stable_baselines3.common.logger import Figure, Image, Video

from ntm_rl.agents.tracking.csv_log import number
from ntm_rl.agents.tracking.pages import HtmlPage


def to_wandb(value: Any) -> Any:
    """Converts a value of SB3's logger; None for text and other values that are not metrics."""
    match value:
        case Video():
            return [_gif(frames, value.fps) for frames in value.frames]
        case Figure():
            import matplotlib.pyplot  # noqa: F401  (W&B expects it to be imported)

            return wandb.Image(value.figure)
        case Image():
            order = {letter: axis for axis, letter in enumerate(value.dataformats)}
            axes = [order[letter] for letter in "NHWC" if letter in order]
            pixels = _pixels(value.image).transpose(axes)
            return [wandb.Image(each) for each in pixels] if "N" in order else wandb.Image(pixels)
        case HtmlPage():
            return wandb.Html(value.content, inject=False)  # W&B's own styles would violate the page's policy
        case torch.Tensor() | np.ndarray() if value.ndim > 0:
            return wandb.Histogram(torch.as_tensor(value).detach().flatten().tolist())
    return number(value)


def _gif(frames: torch.Tensor, fps: float) -> Any:
    """Encodes frames `[T, C, H, W]`; W&B itself needs moviepy."""
    from PIL import Image as PillowImage

    pixels = _pixels(frames).transpose(0, 2, 3, 1)
    images = [PillowImage.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in pixels]
    content = io.BytesIO()
    images[0].save(content, "GIF", save_all=True, append_images=images[1:], duration=1000 / fps, loop=0)
    return wandb.Video(content, format="gif")


def _pixels(image: Any) -> np.ndarray:
    """Returns uint8 pixels; as in TensorBoard, floats are in [0, 1]."""
    array = torch.as_tensor(image).detach().cpu().numpy()
    return array if array.dtype == np.uint8 else (array.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)
