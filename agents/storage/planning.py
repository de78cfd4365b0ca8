"""Builds the network that a file describes, but only where the file's weights fill it."""

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

MAX_STATE = 2**24  # numbers of a memory state (64 MiB): no weight need depend on how many slots a card claims
MAX_SIZE = 2**24  # of any size that a card names
# Parameters that may be registered for each tensor of a file: parts that are shared are registered more than once.
REGISTRATIONS, SPARE_REGISTRATIONS = 2, 16

Network = TypeVar("Network", bound=nn.Module)


def build_filled(
    path: Path, build: Callable[[], Network], state_size: Callable[[Network], int], weights: Mapping[str, Tensor]
) -> Network:
    """Builds a network and puts a file's weights into it.

    It is built without memory first. That stops once the network has more parameters than the file has tensors, so
    what a card claims costs no more time than its file is long.

    Args:
        path: The file, for the errors.
        build: Builds the network on torch's current default device.
        state_size: Numbers of a network's memory state.
        weights: What `weights_of` returned for the network that was saved.

    Raises:
        StorageError: the weights do not fill the network, or its memory state is too large.
    """
    limit = REGISTRATIONS * len(weights) + SPARE_REGISTRATIONS
    with torch.device("meta"), _at_most(limit, path), _no_validation():
        planned = build()
    if state_size(planned) > MAX_STATE:
        raise StorageError(f"{path}: its memory state of {state_size(planned):,} numbers exceeds {MAX_STATE:,}")
    require_matching(path, weights, weights_of(planned))
    network = build()
    put_weights(network, weights)
    return network


def require_sizes(path: Path, arguments: Any) -> None:
    """Raises a `StorageError` for a size anywhere in a card's arguments that no network has."""
    if isinstance(arguments, Mapping):
        arguments = list(arguments.values())
    if isinstance(arguments, list):
        for part in arguments:
            require_sizes(path, part)
    elif isinstance(arguments, int) and abs(arguments) > MAX_SIZE:
        raise StorageError(f"{path}: its card claims a size of {arguments}; sizes are at most {MAX_SIZE:,}")


@contextmanager
def _at_most(limit: int, path: Path) -> Iterator[None]:
    """Stops whatever this thread builds once it has more than `limit` parameters."""
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
    """Lets state-dependent exploration be built without memory, where distributions cannot look at their arguments."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
