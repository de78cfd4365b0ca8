"""Makes memory cores, and tries a user's core before anything is trained with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import is_built_in, make_core
from ntm_rl.envs.foreign import FOREIGN, describe
from ntm_rl.errors import InputError

STEPS, BATCH = 2, 3  # of the trial
ATTRIBUTES = ("input_size", "output_size", "layout")


def make_checked_core(name: str, input_size: int, /, **options: Any) -> MemoryCore:
    """Makes a core as `make_core` does; a core of a user's module also runs two steps.

    Raises:
        InputError: as `make_core`; or the core's own code raises an error or returns wrong shapes.
    """
    if is_built_in(name):
        return make_core(name, input_size, **options)
    with _described(name, "cannot be made"):
        core = make_core(name, input_size, **options)
    _check_attributes(name, core)
    if next(core.parameters()).device.type != "meta":
        with _described(name, "fails"), torch.no_grad(), torch.random.fork_rng(devices=[]):
            _check_steps(name, core.eval())
        core.train()
    return core


@contextmanager
def _described(name: str, failure: str) -> Iterator[None]:
    """Turns an error of the core's own code into an `InputError` with file and line."""
    try:
        yield
    except InputError:
        raise
    except FOREIGN as error:
        raise InputError(f"core = {name!r}: {failure}: {describe(error)}") from error


def _check_attributes(name: str, core: MemoryCore) -> None:
    missing = [key for key in ATTRIBUTES if not hasattr(core, key)]
    if missing:
        raise InputError(f"core = {name!r}: the constructor of {type(core).__name__} must set {', '.join(missing)}")
    if next(core.parameters(), None) is None:
        raise InputError(f"core = {name!r}: {type(core).__name__} has no parameters")


def _check_steps(name: str, core: MemoryCore) -> None:
    """Runs a core on zeros, and checks the shapes of its outputs, state, weightings and memory."""
    start = core.initial_state(BATCH)
    resets = torch.zeros(STEPS, BATCH, dtype=torch.bool, device=start.device)
    resets[-1, 0] = True
    outputs, state = core(start.new_zeros(STEPS, BATCH, core.input_size), start, resets)
    _require_shape(name, "_run returns outputs", outputs, "[T, B, output_size]", (STEPS, BATCH, core.output_size))
    _require_shape(name, "_run returns a state", state, "[B, state_size]", (BATCH, core.state_size))
    if not (outputs.isfinite().all() and state.isfinite().all()):
        raise InputError(f"core = {name!r}: _run returns numbers that are not finite for inputs of 0")
    for head, weighting in core.weightings(state).items():
        _require_shape(name, f"weightings returns {head!r}", weighting, "[B, N]", (BATCH, None))
    memory = core.memory(state)
    if memory is not None:
        _require_shape(name, "memory returns a tensor", memory, "[B, N, M]", (BATCH, None, None))


def _require_shape(name: str, subject: str, value: Any, symbols: str, shape: tuple[int | None, ...]) -> None:
    """Raises an `InputError` unless a value is a tensor of a shape, in which None stands for any size."""
    if not isinstance(value, Tensor):
        raise InputError(f"core = {name!r}: {subject} of type {type(value).__name__}; must be a tensor {symbols}")
    if value.dim() != len(shape) or any(
        size not in (None, each) for each, size in zip(value.shape, shape, strict=True)
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"core = {name!r}: {subject} of shape {list(value.shape)}; must be {symbols}, here [{sizes}]")
