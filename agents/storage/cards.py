"""Agents and networks as folders that are safe to load: weights, and a card with the arguments to build the model."""

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from ntm_rl.agents.storage.files import StorageError, make_folder, write_atomically
from ntm_rl.agents.storage.planning import build_filled, require_sizes
from ntm_rl.agents.storage.tensors import read_tensors, require_format, write_tensors

WEIGHTS, CARD = "weights.safetensors", "card.json"
FORMATS = {"agent": 3, "network": 2}  # by the kind of the card
MAX_ARGUMENTS = 10_000  # characters; parsing the arguments of a million layers would take long

Model = TypeVar("Model", bound=nn.Module)


def make_card(
    kind: str, arguments: Mapping[str, Any], packages: Iterable[str], extra: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Returns the entries that all cards have.

    Args:
        kind: "agent" or "network".
        arguments: JSON values for the model's constructor.
        packages: Packages whose versions are recorded.
        extra: JSON values of the caller; left out if empty.
    """
    card = {
        "format": FORMATS[kind],
        "kind": kind,
        "arguments": dict(arguments),
        "versions": {name: version(name) for name in packages},
    }
    return {**card, "extra": dict(extra)} if extra else card


def write_model(folder: Path | str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Writes `weights.safetensors`, which also contains the card, and `card.json`, a readable copy of the card.

    Raises:
        StorageError: they could not be written; an older model is untouched.
    """
    folder = Path(folder)
    make_folder(folder)
    write_tensors(folder / WEIGHTS, tensors, card)
    write_atomically(folder / CARD, (json.dumps(card, indent=2) + "\n").encode())


def read_model(folder: Path | str) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Reads a model's file; returns its path, its tensors and its card, which `build_model` checks.

    Raises:
        StorageError: missing, truncated or altered.
    """
    path = Path(folder) / WEIGHTS
    return path, *read_tensors(path)


def build_model(
    path: Path,
    kind: str,
    card: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    build: Callable[[], Model],
    state_size: Callable[[Model], int],
) -> Model:
    """Builds the model of a card that may be hostile, and copies the weights into it.

    Args:
        path: The card's file, for errors.
        kind: As in `make_card`.
        card: The card.
        weights: The weights of the model, as `weights_of` returns them.
        build: Builds the model from the card; may raise any error.
        state_size: Returns the size of a model's memory state.

    Raises:
        StorageError: a card of another kind or format, or one that does not fit the weights.
    """
    require_format(path, card, kind, FORMATS[kind])
    try:
        if len(json.dumps(card["arguments"])) > MAX_ARGUMENTS:
            raise StorageError(f"{path}: the arguments in its card are longer than {MAX_ARGUMENTS} characters")
        require_sizes(path, card["arguments"])
        return build_filled(path, build, state_size, weights)
    except StorageError:
        raise
    except Exception as error:  # a hostile card makes constructors raise anything
        raise StorageError(f"{path}: its card describes no {kind} that this version can build: {error}") from error
