"""The registry of memory cores by name."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ntm_rl.cores.base import MemoryCore
from ntm_rl.errors import InputError, did_you_mean

_CORES: dict[str, type[MemoryCore]] = {}

_BUILT_IN_MODULES = (
    "ntm_rl.cores.ntm",
    "ntm_rl.cores.recurrent",
    "ntm_rl.cores.dnc",
    "ntm_rl.cores.sam",
    "ntm_rl.cores.mann",
    "ntm_rl.cores.gated_delta",
    "ntm_rl.cores.gtrxl",
    "ntm_rl.cores.feedforward",
)


def register_core(name: str) -> Callable[[type[MemoryCore]], type[MemoryCore]]:
    """Class decorator that makes a core available by `name` to policies, configs and the command line.

    A core sets `input_size`, `output_size` and `layout` in a constructor that takes `input_size` and keyword arguments
    annotated `Annotated[type, "one sentence"]`, and implements `_run`. The module of a built-in core is listed in
    `_BUILT_IN_MODULES`, which is the only other file to change.
    """

    def register(core: type[MemoryCore]) -> type[MemoryCore]:
        _CORES[name] = core
        return core

    return register


def core_names() -> tuple[str, ...]:
    """Returns the names of all registered cores, in the order of registration."""
    for module in _BUILT_IN_MODULES:
        import_module(module)
    return tuple(_CORES)


def is_built_in(name: str) -> bool:
    """Whether `name` is a registered core of this package."""
    return name in core_names() and _CORES[name].__module__ in _BUILT_IN_MODULES


def core_class(name: str) -> type[MemoryCore]:
    """Returns the core registered as `name`.

    Raises:
        InputError: unknown core.
    """
    names = core_names()
    if name not in names:
        raise InputError(
            f"core = {name!r}: unknown core; valid are {', '.join(names)}."
            f"{did_you_mean(str(name), names) or ' Import the module that registers a core of your own first.'}"
        )
    return _CORES[name]


def make_core(name: str, input_size: int, /, **kwargs: Any) -> MemoryCore:
    """Builds the core registered as `name`.

    Raises:
        InputError: unknown core, unknown keyword, or a value out of range.
    """
    core = core_class(name)
    valid = core_options(name)
    for key in kwargs:
        if key not in valid:
            raise InputError(
                f"{key}: core {name!r} has no such option; it has {', '.join(valid)}.{did_you_mean(key, valid)}"
            )
    return core(input_size, **kwargs)


def core_options(name: str) -> tuple[str, ...]:
    """Returns the keyword arguments that the core registered as `name` takes."""
    annotations = core_class(name).__init__.__annotations__
    return tuple(key for key in annotations if key not in ("input_size", "return"))
