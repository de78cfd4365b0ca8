"""What features extractors are given: no scalars, and no names that torch refuses for modules."""

from collections.abc import Mapping

from gymnasium import spaces
from torch import Tensor, nn

RENAMED = "part "  # what the names of parts begin with whose own are refused


def module_names(space: spaces.Dict) -> dict[str, str]:
    """Returns of each key a name that a module may have: itself, or its number where torch refuses it.

    Those are the empty name, names with a dot, and those of `nn.ModuleDict`'s own attributes, such as `keys`.
    """
    taken = nn.ModuleDict()
    return {key: f"{RENAMED}{index}" if _is_refused(key, taken) else key for index, key in enumerate(space.spaces)}


def extractor_space(space: spaces.Space[object]) -> spaces.Space[object]:
    """Returns the space as a features extractor sees it."""
    if isinstance(space, spaces.Dict):
        names = module_names(space)
        return spaces.Dict({names[key]: extractor_space(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Box) and space.shape == ():
        return spaces.Box(space.low.reshape(1), space.high.reshape(1), (1,), space.dtype.type)
    return space


def extractor_input(observations: Tensor | dict[str, Tensor], names: Mapping[str, str]) -> Tensor | dict[str, Tensor]:
    """Returns preprocessed observations as `extractor_space` describes them.

    Args:
        observations: `[B, ...]`, or a dict of such.
        names: As `module_names` returns them; empty where observations are no dict.
    """
    if isinstance(observations, dict):
        return {names[key]: _at_least_2d(part) for key, part in observations.items()}
    return _at_least_2d(observations)


def _at_least_2d(part: Tensor) -> Tensor:
    return part.unsqueeze(1) if part.dim() == 1 else part


def _is_refused(key: str, taken: nn.ModuleDict) -> bool:
    return not key or "." in key or key.startswith(RENAMED) or hasattr(taken, key)
