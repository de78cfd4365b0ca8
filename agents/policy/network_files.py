"""Supervised networks as files."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.storage.cards import CARD, WEIGHTS
from ntm_rl.agents.storage.files import StorageError, make_folder, write_atomically
from ntm_rl.agents.storage.planning import build_filled, require_sizes
from ntm_rl.agents.storage.tensors import read_tensors, weights_of, write_tensors

FORMAT, KIND = 1, "network"


def save_network(network: SequenceNetwork, folder: Path, extra: Mapping[str, Any]) -> None:
    """Writes `weights.safetensors`, which holds everything, and `card.json`, a copy of its card for the reader.

    Raises:
        StorageError: it could not be written; what was there before is untouched.
    """
    card = {
        "format": FORMAT,
        "kind": KIND,
        "core": network.core_name,
        "core_kwargs": network.core_kwargs,
        "input_size": network.core.input_size,
        "output_size": network.output.out_features,
        "versions": {name: version(name) for name in ("ntm-rl", "torch")},
        "extra": dict(extra),
    }
    make_folder(folder)
    write_tensors(folder / WEIGHTS, weights_of(network), card)
    write_atomically(folder / CARD, (json.dumps(card, indent=2) + "\n").encode())


def load_network(folder: Path) -> tuple[SequenceNetwork, dict[str, Any]]:
    """Loads a network and its card; nothing in the files is run, nothing is built that the weights do not fill.

    Raises:
        StorageError: missing, damaged, altered, or no network.
    """
    path = Path(folder) / WEIGHTS
    weights, card = read_tensors(path)
    if card.get("kind") != KIND or card.get("format") != FORMAT:
        raise StorageError(f"{path}: not a supervised network of format {FORMAT}")
    try:
        require_sizes(path, [card["core_kwargs"], card["input_size"], card["output_size"]])
        network = build_filled(path, lambda: _build(card), lambda planned: planned.core.state_size, weights)
    except StorageError:
        raise
    except Exception as error:  # whatever a hostile card makes the constructors raise
        raise StorageError(f"{path}: its card describes no network that this version can build: {error}") from error
    return network.eval(), card


def _build(card: Mapping[str, Any]) -> SequenceNetwork:
    return SequenceNetwork(card["core"], card["input_size"], card["output_size"], **card["core_kwargs"])
