"""Builds the model that a file describes, only if the file's weights fill it."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.module import register_module_parameter_registration_hook

from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import put_weights, require_matching, weights_of

MAX_STATE = 2**24  # numbers of a memory state (64 MiB); weights do not limit it, as none depends on the slots
MAX_SIZE = 2**24  # of any integer among a card's arguments
# Parameters that may be registered for each tensor of a file; shared ones are registered more than once.
REGISTRATIONS, SPARE_REGISTRATIONS = 2, 16

Model = TypeVar("Model", bound=nn.Module)


def build_filled(
    path: Path, build: Callable[[], Model], state_size: Callable[[Model], int], weights: Mapping[str, Tensor]
) -> Model:
    """Builds a model and copies a file's weights into it.

    A first build on the meta device, without memory, stops once the model has more parameters than the file has
    tensors. So a hostile card takes no longer to load than a valid file of its length.

    Args:
        path: The file, for errors.
        build: Builds the model on torch's current default device.
        state_size: Returns the size of a model's memory state.
        weights: The weights of the saved model, as `weights_of` returns them.

    Raises:
        StorageError: the weights do not fill the model, or its memory state is too large.
    """
    limit = REGISTRATIONS * len(weights) + SPARE_REGISTRATIONS
    with torch.device("meta"), _at_most(limit, path), _no_validation():
        planned = build()
    if state_size(planned) > MAX_STATE:
        raise StorageError(f"{path}: its memory state of {state_size(planned):,} numbers exceeds {MAX_STATE:,}")
    require_matching(path, weights, weights_of(planned))
    model = build()
    put_weights(model, weights)
    return model


def require_sizes(path: Path, arguments: Any) -> None:
    """Raises a `StorageError` for an integer above `MAX_SIZE` anywhere in a card's arguments."""
    if isinstance(arguments, Mapping):
        arguments = list(arguments.values())
    if isinstance(arguments, list):
        for part in arguments:
            require_sizes(path, part)
    elif isinstance(arguments, int) and abs(arguments) > MAX_SIZE:
        raise StorageError(f"{path}: its card claims a size of {arguments}; sizes are at most {MAX_SIZE:,}")


@contextmanager
def _at_most(limit: int, path: Path) -> Iterator[None]:
    """Limits the parameters of modules that this thread builds."""
    registered, thread = 0, threading.get_ident()

    def register(*_: Any) -> None:
        nonlocal registered
        if threading.get_ident() == thread:
            registered += 1
            if registered > limit:
                raise StorageError(f"{path}: its card claims more layers than the file has weights for")

    hook = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _no_validation() -> Iterator[None]:
    """Switches off the checks of distributions, which cannot read the meta tensors of state-dependent exploration."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
