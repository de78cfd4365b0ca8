"""The flat layout of a core's state."""

import math
from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Parts = TypeVar("Parts", bound=NamedTuple)


class StateLayout(Generic[Parts]):
    """Packs the named parts of a state into one tensor `[B, S]`: the alive flag, then each part flattened.

    Args:
        parts: NamedTuple class of the parts.
        shapes: Shape of each part without the batch dimension, in the order of `parts`.

    Attributes:
        size: S.
        sizes: Elements of the alive flag and of each part.
    """

    def __init__(self, parts: type[Parts], **shapes: tuple[int, ...]):
        if tuple(shapes) != parts._fields:
            raise ValueError(f"shapes of {', '.join(shapes)}: must be of {', '.join(parts._fields)}")
        self.parts = parts
        self.shapes = tuple(tuple(map(int, shape)) for shape in shapes.values())
        self.sizes = (1, *map(math.prod, self.shapes))
        self.size = sum(self.sizes)

    def pack(self, parts: Iterable[Tensor]) -> Tensor:
        """Returns the flat state `[B, S]` with the alive flag set.

        Args:
            parts: The parts, each `[B, *shape]`; a part may also come as several consecutive tensors, e.g. one a layer.
        """
        flat = [part.flatten(1) for part in parts]
        alive = flat[0].new_ones(flat[0].shape[0], 1)
        return torch.cat([alive, *flat], dim=1)

    def unpack(self, state: Tensor) -> Parts:
        """Returns views of the parts of a flat state `[B, S]`."""
        _, *flat = state.split(self.sizes, dim=1)
        found: list[Any] = [
            part if len(shape) == 1 else part.view(part.shape[0], *shape)
            for part, shape in zip(flat, self.shapes, strict=True)
        ]
        return self.parts(*found)
