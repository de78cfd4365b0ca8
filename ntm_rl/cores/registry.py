"""The registry of memory cores by name."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ntm_rl.cores.base import MemoryCore
from ntm_rl.errors import InputError, did_you_mean

_CORES: dict[str, type[MemoryCore]] = {}

_BUILT_IN_MODULES = (
    "ntm_rl.cores.ntm",
    "ntm_rl.cores.ntm_block",
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

    Raises:
        InputError: it decorates anything but a `MemoryCore`, or the name is that of a built-in core.
    """

    def register(core: type[MemoryCore]) -> type[MemoryCore]:
        if not issubclass(core, MemoryCore):
            raise InputError(f"register_core({name!r}): {core.__name__} must be a subclass of ntm_rl.MemoryCore")
        if core.__module__ not in _BUILT_IN_MODULES and is_built_in(name):
            raise InputError(f"register_core({name!r}): is the name of a built-in core; choose another one")
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
    """Returns the keyword arguments that the core registered as `name` takes, its base classes' behind `**kwargs`."""
    options: dict[str, None] = {}
    for core in core_class(name).__mro__:
        constructor = vars(core).get("__init__")
        if constructor is None:
            continue
        _, *parameters = inspect.signature(constructor).parameters.values()
        named = [each for each in parameters if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)]
        options |= dict.fromkeys(each.name for each in named if each.name != "input_size")
        if all(each.kind is not each.VAR_KEYWORD for each in parameters):
            break
    return tuple(options)
