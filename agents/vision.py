"""What turns images into features: convolutions over a whole block of steps, in bfloat16 where that is faster."""

from contextlib import nullcontext
from typing import Literal, get_args

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from ntm_rl.core import require_at_least, require_one_of
from ntm_rl.errors import InputError

Architecture = Literal["nature", "impala"]
Precision = Literal["auto", "bf16", "fp32"]

IMPALA_CHANNELS = (16, 32, 32)
SMALLEST_NATURE = 36  # height and width that leave its last convolution a pixel


class ImageExtractor(BaseFeaturesExtractor):
    """Nature CNN (Mnih et al. 2015) or IMPALA's ResNet (Espeholt et al. 2018, figure 3, without the LSTM).

    Images stay bytes until they are here. Whatever the precision of the convolutions, features are float32.

    Args:
        observation_space: Images, channels first.
        features_dim: Features.
        architecture: "nature" or "impala".
        precision: "bf16" runs convolutions under bfloat16 autocast, "auto" does where the device computes in it.

    Raises:
        InputError: an image too small for the architecture, or an unknown name.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 512,
        architecture: Architecture = "nature",
        precision: Precision = "auto",
    ):
        require_at_least(1, features_dim=features_dim)
        super().__init__(observation_space, features_dim)
        require_one_of(get_args(Architecture), extractor=architecture)
        require_one_of(get_args(Precision), precision=precision)
        self.precision = precision
        channels, height, width = observation_space.shape
        if architecture == "nature":
            if min(height, width) < SMALLEST_NATURE:
                raise InputError(
                    f"extractor = 'nature': images of {height} x {width} are too small, it needs "
                    f"{SMALLEST_NATURE} x {SMALLEST_NATURE}; use 'impala'"
                )
            nature = NatureCNN(observation_space, features_dim, normalized_image=observation_space.dtype != "uint8")
            self.cnn, self.linear = nature.cnn, nature.linear
        else:
            self.cnn = nn.Sequential(*_impala_blocks(channels), nn.ReLU(), nn.Flatten())
            with torch.no_grad():
                flat = self.cnn(torch.zeros(1, channels, height, width)).shape[1]
            self.linear = nn.Sequential(nn.Linear(flat, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Returns the features `[B, features_dim]` of images `[B, C, H, W]`: bytes, or numbers already scaled."""
        device = observations.device
        in_bf16 = self.precision == "bf16" or (self.precision == "auto" and computes_in_bf16(device))
        with torch.autocast(device.type, torch.bfloat16) if in_bf16 else nullcontext():
            images = observations
            if images.dtype == torch.uint8:
                # 1/255 of a byte: bfloat16 keeps 8 bits of it, as many as there were.
                images = images.to(torch.bfloat16 if in_bf16 else torch.float32).mul_(1 / 255)
            features: Tensor = self.linear(self.cnn(images))
        return features.float()


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        residual: Tensor = self.convolutions(images)
        return images + residual


def _impala_blocks(channels: int) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for size in IMPALA_CHANNELS:
        blocks += [nn.Conv2d(channels, size, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        blocks += [_Residual(size), _Residual(size)]
        channels = size
    return blocks


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device has arithmetic in bfloat16, and not only the type."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
