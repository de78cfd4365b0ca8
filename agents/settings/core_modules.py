"""Custom cores: `core = module:name` names the module that registers the core."""

import re
from collections.abc import Mapping
from typing import Any

from ntm_rl.cores.registry import core_class, core_names, core_options, is_built_in
from ntm_rl.envs.modules import import_from
from ntm_rl.errors import InputError, did_you_mean

# The name becomes a key of the section `memory`, in which pydantic reserves model_.
_CORE = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):((?!model_)[A-Za-z]\w*)")


def split_core(core: Any) -> tuple[str | None, str]:
    """Returns the module and the name of `module:name`, None and the name where no module is named.

    Raises:
        ValueError: there is a colon, but not this form.
    """
    if ":" not in str(core):
        return None, str(core)
    match = _CORE.fullmatch(core) if isinstance(core, str) else None
    if match is None:
        raise ValueError("must be a core's name, such as ntm, or my_module:name for a core that my_module.py registers")
    return match[1], match[2]


def check_core(core: str) -> str:
    """Returns a core as given; raises as `split_core`."""
    split_core(core)
    return core


def custom_core(core: Any) -> str | None:
    """Returns the name of a custom core, `module:name` or already registered; None for anything else."""
    try:
        module, name = split_core(core)
    except ValueError:
        return None
    return name if module is not None or (name in core_names() and not is_built_in(name)) else None


def import_core(core: str, folder: str | None, options: Mapping[str, Any]) -> None:
    """Imports the module of `core = module:name` and checks the names of the core's options.

    Does nothing for other cores.

    Raises:
        InputError: there is no such module or folder, its import fails, it does not register the core, or the core has
            no such option.
    """
    module, name = split_core(core)
    if module is None:
        return
    import_from(folder, module, f"core = {core!r}", "core_path")
    try:
        core_class(name)
    except InputError as error:
        raise InputError(f"core = {core!r}: {module} does not register {name!r} (ntm_rl.register_core)") from error
    valid = core_options(name)
    for key in options:
        if key not in valid:
            raise InputError(
                f"memory.{name}.{key} = {options[key]!r}: the core has no such option; it has "
                f"{', '.join(valid) or 'none'}.{did_you_mean(key, valid)}"
            )
