"""Checks of devices, and the precision in which cores compute."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ntm_rl.transforms import is_transformed


def can_read_values(device: torch.device) -> bool:
    """Whether values can be read without a host-device synchronisation; meta and traced tensors have none."""
    return device.type == "cpu" and not torch.compiler.is_compiling() and not is_transformed()


def can_be_compared(given: Tensor) -> bool:
    """Whether a tensor can be compared without a host-device synchronisation; subclasses may have no values."""
    return can_read_values(given.device) and type(given) in (Tensor, nn.Parameter)


def is_same(kept: Tensor, given: Tensor) -> bool:
    """Whether a tensor equals its cached copy; by value, as not every optimizer increments its version."""
    return kept.dtype == given.dtype and kept.device == given.device and torch.equal(kept, given)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context in which operators compute in the precision of their tensors: without autocast and TF32.

    Both would round products to 8 or 11 bits: strengths and exponents of heads amplify the error, and a memory
    accumulates it. Without both, the context costs next to nothing (with autocast, 10 µs per step).
    """
    if device.type == "meta":  # torch raises for its autocast
        return nullcontext()
    has_autocast = torch.is_autocast_enabled(device.type)
    if device.type == "cpu" or torch.compiler.is_compiling():
        return torch.autocast(device.type, enabled=False) if has_autocast else nullcontext()
    return _without_autocast_and_tf32(device, has_autocast)


@contextmanager
def _without_autocast_and_tf32(device: torch.device, has_autocast: bool) -> Iterator[None]:
    restore = _disable_tf32_of_matmul(), _disable_tf32_of_cudnn()
    try:
        with torch.autocast(device.type, enabled=False) if has_autocast else nullcontext():
            yield
    finally:
        for each in restore:
            each()


def _disable_tf32_of_matmul() -> Callable[[], None]:
    """Returns a function that restores the setting."""
    matmul: Any = torch.backends.cuda.matmul
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by torch's newer interface
        matmul.fp32_precision = "ieee"
        return partial(setattr, matmul, "fp32_precision", "tf32")
    if before == "highest":
        return _nothing
    torch.set_float32_matmul_precision("highest")
    return partial(torch.set_float32_matmul_precision, before)


def _disable_tf32_of_cudnn() -> Callable[[], None]:
    """Returns a function that restores the setting, which is on by default."""
    cudnn: Any = torch.backends.cudnn
    try:
        before = cudnn.allow_tf32
    except RuntimeError:  # set by torch's newer interface
        precision = cudnn.rnn.fp32_precision
        cudnn.rnn.fp32_precision = "ieee"
        return partial(setattr, cudnn.rnn, "fp32_precision", precision)
    if not before:
        return _nothing
    cudnn.allow_tf32 = False
    return partial(setattr, cudnn, "allow_tf32", before)


def _nothing() -> None:
    pass
