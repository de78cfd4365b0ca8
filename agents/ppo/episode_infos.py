"""What environments' infos say of episodes, checked before statistics are made of it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def with_statistics(infos: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Returns infos without what SB3 would take for an episode's statistics or its success, and is neither."""
    if not any(key in info for info in infos for key in RESERVED):
        return infos
    return [_without_wrong(info) if info else info for info in infos]


def _without_wrong(info: dict[str, Any]) -> dict[str, Any]:
    wrong = [key for key, (is_valid, _) in RESERVED.items() if info.get(key) is not None and not is_valid(info[key])]
    for key in wrong:
        warnings.warn(
            f"info[{key!r}] of the environment's step is left out of the statistics: Stable-Baselines3 keeps "
            f"{RESERVED[key][1]} there; use another key",
            stacklevel=2,
        )
    return {key: value for key, value in info.items() if key not in wrong} if wrong else info


def _is_number(value: Any) -> bool:
    array = np.asarray(value)
    return array.shape == () and array.dtype.kind in "biuf"


def _is_episode(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_number(value.get(key)) for key in ("r", "l"))


# What SB3 reads from infos: whether a value is right, and what it means.
RESERVED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "episode": (_is_episode, "an ended episode's return r, length l and time t"),
    "is_success": (_is_number, "a number or bool"),
}
