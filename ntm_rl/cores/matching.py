"""Options with which cores have about the same number of parameters, for comparisons."""

from typing import Any

import torch

from ntm_rl.checks import require_at_least
from ntm_rl.cores.registry import core_options, make_core
from ntm_rl.errors import InputError

SIZE, LAYERS = "hidden_size", "layers"  # options that are adjusted
TOLERANCE = 0.1  # largest relative difference from the target


def parameter_count(core: str, input_size: int, **options: Any) -> int:
    """Returns the number of parameters of a core, which is built on the meta device.

    Raises:
        InputError: as `make_core`.
    """
    with torch.device("meta"):
        return sum(each.numel() for each in make_core(core, input_size, **options).parameters())


def matched_options(core: str, input_size: int, parameters: int) -> dict[str, Any]:
    """Returns the `hidden_size` with which a core, otherwise at its defaults, comes closest to a number of parameters.

    If that exceeds the square root of `parameters`, as for a perceptron of one layer, two `layers` are used: the
    policy's layers on the output would have more parameters than the core.

    Args:
        core: Name of a registered core.
        input_size: I.
        parameters: Target number of parameters.

    Returns:
        Options for `make_core` or a policy's `core_kwargs`.

    Raises:
        InputError: unknown core, a core without `hidden_size`, or one that differs from the target by more than 10%.
    """
    require_at_least(1, parameters=parameters)
    valid = core_options(core)
    if SIZE not in valid:
        raise InputError(f"core = {core!r}: cannot be matched because it has no option {SIZE}, only {', '.join(valid)}")
    options = _closest(core, input_size, parameters, {})
    if LAYERS in valid and options[SIZE] ** 2 > parameters:
        options = _closest(core, input_size, parameters, {LAYERS: 2})
    found = parameter_count(core, input_size, **options)
    if abs(found - parameters) > TOLERANCE * parameters:
        raise InputError(
            f"parameters = {parameters:,}: core {core!r} with {input_size} inputs comes no closer than {found:,} "
            f"({SIZE} = {options[SIZE]})"
        )
    return options


def _closest(core: str, input_size: int, parameters: int, options: dict[str, Any]) -> dict[str, Any]:
    """Returns options with the `hidden_size` whose number of parameters is closest to `parameters`."""

    def count(size: int) -> int:
        return parameter_count(core, input_size, **options, **{SIZE: size})

    above = 1
    while count(above) < parameters:
        above *= 2
    below = max(1, above // 2)
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if count(middle) < parameters else (below, middle)
    return {**options, SIZE: min(below, above, key=lambda each: abs(count(each) - parameters))}
