"""Features extractors for images: convolutions over a whole block of steps, in bfloat16 where the device has it."""

from collections.abc import Iterable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, Literal, Self, TypeVar, get_args

import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import Tensor, nn

from ntm_rl.checks import require_at_least, require_one_of
from ntm_rl.envs.wrappers.images import ImageReader, is_image
from ntm_rl.errors import InputError
from ntm_rl.transforms import is_transformed

Architecture = Literal["auto", "nature", "impala"]
Precision = Literal["auto", "bf16", "fp32"]
Extractor = TypeVar("Extractor", bound=nn.Module)

IMPALA_CHANNELS = (16, 32, 32)
SMALLEST_NATURE = 36  # height and width that leave its last convolution a pixel


class ImageExtractor(BaseFeaturesExtractor):
    """Nature CNN (Mnih et al. 2015) or IMPALA's ResNet (Espeholt et al. 2018, figure 3, without the LSTM).

    Images arrive as uint8. Features are float32 at any precision of the convolutions.

    Args:
        observation_space: Images, channels first.
        features_dim: Number of features.
        architecture: "nature", "impala", or "auto": the Nature CNN, or IMPALA's for images too small for it.
        precision: "bf16" runs the convolutions under bfloat16 autocast; "auto" does if the device has such arithmetic.

    Raises:
        InputError: an image too small for the architecture, channels not first, or an unknown name.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 512,
        architecture: Architecture = "auto",
        precision: Precision = "auto",
    ):
        require_at_least(1, features_dim=features_dim)
        super().__init__(observation_space, features_dim)
        require_one_of(get_args(Architecture), extractor=architecture)
        require_one_of(get_args(Precision), precision=precision)
        _require_channels_first(observation_space)
        self.precision = precision
        channels, height, width = observation_space.shape
        self.architecture = chosen_architecture(observation_space, architecture)
        if self.architecture == "nature":
            if min(height, width) < SMALLEST_NATURE:
                raise InputError(
                    f"extractor = 'nature': images of {height} x {width} are too small, it needs "
                    f"{SMALLEST_NATURE} x {SMALLEST_NATURE}; use 'auto' or 'impala'"
                )
            nature = NatureCNN(observation_space, features_dim, normalized_image=observation_space.dtype != "uint8")
            self.cnn, self.linear = nature.cnn, nature.linear
            self.cnn[0] = _ByteConvolution(nature.cnn[0])  # type: ignore[arg-type]
        else:
            self.cnn = nn.Sequential(*_impala_blocks(channels), nn.ReLU(), nn.Flatten())
            with torch.no_grad():
                flat = self.cnn(torch.zeros(1, channels, height, width)).shape[1]
            self.linear = nn.Sequential(nn.Linear(flat, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Returns the features `[B, features_dim]` of images `[B, C, H, W]`: uint8, or floats already scaled."""
        device, in_bf16 = observations.device, self.is_in_bf16(observations.device)
        with torch.autocast(device.type, torch.bfloat16) if in_bf16 else nullcontext():
            images = observations
            first = next(self.cnn.children(), None)
            takes_bytes = in_bf16 and isinstance(first, _ByteConvolution) and first.takes_bytes(images)
            if images.dtype == torch.uint8 and not takes_bytes:
                # bfloat16's significand has 8 bits, as many as a pixel.
                images = (images.to(torch.bfloat16) if in_bf16 else _as_float32(images)).div_(255)
            features: Tensor = self.linear(self.cnn(images))
        return features.float() if in_bf16 else features

    def make_step(self) -> Self:
        """Returns an extractor for steps in which the parameters stay the same: a copy with weights in bfloat16."""
        return _for_steps(self, [self])

    def is_in_bf16(self, device: torch.device) -> bool:
        """Whether the convolutions run in bfloat16 on a device."""
        return self.precision == "bf16" or (self.precision == "auto" and computes_in_bf16(device))


class _ByteConvolution(nn.Conv2d):
    """The Nature CNN's first convolution, 8 x 8 with stride 4; of bytes in bfloat16, on CPUs as 2 x 2 with stride 1.

    The pixels of each patch of 4 x 4 become channels, as CPUs' instructions for bfloat16 need many of them.
    """

    def __init__(self, convolution: nn.Conv2d):
        sizes = convolution.in_channels, convolution.out_channels, convolution.kernel_size, convolution.stride
        super().__init__(*sizes, device="meta")  # type: ignore[arg-type]  # draws no random numbers
        self.weight, self.bias = convolution.weight, convolution.bias

    def takes_bytes(self, images: Tensor) -> bool:
        """Whether images `[B, C, H, W]` may be bytes."""
        return images.shape[3] % 4 == 0 and images.device.type == "cpu" and not is_transformed()

    def forward(self, images: Tensor) -> Tensor:
        """Returns the convolution of images `[B, C, H, W]`: scaled floats, or bytes if it `takes_bytes`."""
        if images.dtype != torch.uint8:
            return super().forward(images)
        batch, channels, height, width = images.shape
        pixels = images[:, :, : height // 4 * 4].flatten()
        fours = (pixels.clone() if pixels.storage_offset() % 4 else pixels).view(torch.int32)
        fours = fours.view(batch, channels, height // 4, 4, width // 4).permute(0, 2, 4, 1, 3)
        patches = fours.reshape(batch, height // 4, width // 4, channels * 4).contiguous().view(torch.uint8)
        weights = self.weight.unflatten(3, (2, 4)).unflatten(2, (2, 4)).permute(0, 1, 3, 5, 2, 4)
        scaled = weights.reshape(-1, 16 * channels, 2, 2) / 255
        return F.conv2d(patches.to(torch.bfloat16).permute(0, 3, 1, 2), scaled, self.bias)


def _for_steps(extractor: Extractor, images: Iterable[ImageExtractor]) -> Extractor:
    if not all(each.is_in_bf16(next(each.parameters()).device) for each in images):
        return extractor
    step = deepcopy(extractor)
    step.to(dtype=torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return step


def _as_float32(images: Tensor) -> Tensor:
    """Returns images as float32, with channels last for backward passes, which then take 0.6 of the time on CPUs."""
    layout = torch.channels_last if torch.is_grad_enabled() else torch.preserve_format
    return images.to(torch.float32, memory_format=layout)


class MultiInputExtractor(CombinedExtractor):
    """Reads each image of a Dict with its own `ImageExtractor`, and flattens everything else.

    Images arrive as uint8. Keys may be any text: modules are not named after them.

    Args:
        observation_space: The Dict space.
        cnn_output_dim: Number of features per image.
        normalized_image: Treat every three-dimensional Box as an image that is already scaled, as in SB3.
        architecture: See `ImageExtractor`.
        precision: See `ImageExtractor`.

    Raises:
        InputError: as `ImageExtractor`, with the key of the observation.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
        architecture: Architecture = "auto",
        precision: Precision = "auto",
    ):
        parts = observation_space.spaces
        chosen = [key for key, part in parts.items() if is_image(part) or (normalized_image and _is_block(part))]
        others = sum(int(spaces.flatdim(part)) for key, part in parts.items() if key not in chosen)
        # Not super().__init__: CombinedExtractor's builds networks that are not used here.
        BaseFeaturesExtractor.__init__(self, observation_space, others + cnn_output_dim * len(chosen))
        extractors = []
        for key in chosen:
            try:
                extractors.append(ImageExtractor(parts[key], cnn_output_dim, architecture, precision))  # type: ignore[arg-type]
            except InputError as error:
                raise InputError(f"observation {key!r}: {error}") from error
        self.cnns = nn.ModuleList(extractors)
        self._numbers = {key: number for number, key in enumerate(chosen)}
        self._keys = list(parts)

    @property
    def images(self) -> dict[str, ImageExtractor]:
        """The extractor of each image by its key."""
        return {key: self.cnns[number] for key, number in self._numbers.items()}  # type: ignore[misc]

    def make_step(self) -> Self:
        """See `ImageExtractor.make_step`."""
        return _for_steps(self, self.images.values())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Returns the features `[B, F]` of images `[B, C, H, W]` and of other parts `[B, ...]`, in the Dict's order."""
        return torch.cat(
            [
                self.cnns[self._numbers[key]](observations[key])
                if key in self._numbers
                else observations[key].reshape(observations[key].shape[0], -1)
                for key in self._keys
            ],
            dim=1,
        )


def chosen_architecture(space: spaces.Box, architecture: Architecture) -> Architecture:
    """Returns the architecture for images `[C, H, W]`, with "auto" resolved."""
    if architecture != "auto":
        return architecture
    return "nature" if min(space.shape[1:]) >= SMALLEST_NATURE else "impala"


def _is_block(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _require_channels_first(space: spaces.Box) -> None:
    if space.dtype != "uint8" and ImageReader.fits(space) and ImageReader(space).space.shape != space.shape:
        raise InputError(
            f"observation_space = {space}: its channels come last, and SB3 transposes only uint8 images; make the "
            "environment with ntm_rl.envs.make_vec_env, or transpose it"
        )


class _Residual(nn.Module):
    """Two convolutions with a skip connection."""

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
    """Whether a device computes in bfloat16, rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
