"""Supervised networks as files: see `storage.cards`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.storage.cards import build_model, make_card, read_model, write_model
from ntm_rl.agents.storage.tensors import weights_of


def save_network(network: SequenceNetwork, folder: Path | str, extra: Mapping[str, Any]) -> None:
    """Writes `weights.safetensors`, which also contains the card, and `card.json`, a readable copy of the card.

    Raises:
        StorageError: they could not be written; an older network is untouched.
    """
    arguments = {
        "core": network.core_name,
        "core_kwargs": network.core_kwargs,
        "input_size": network.core.input_size,
        "output_size": network.output.out_features,
    }
    write_model(folder, weights_of(network), make_card("network", arguments, ("ntm-rl", "torch"), extra))


def load_network(folder: Path | str) -> tuple[SequenceNetwork, dict[str, Any]]:
    """Loads a network and its card without running code from the files.

    Raises:
        StorageError: missing, damaged, altered, or no network.
    """
    path, weights, card = read_model(folder)
    network = build_model(
        path, "network", card, weights, lambda: _build(card["arguments"]), lambda built: built.core.state_size
    )
    return network.eval(), card


def _build(arguments: Mapping[str, Any]) -> SequenceNetwork:
    core, input_size, output_size = (arguments[key] for key in ("core", "input_size", "output_size"))
    return SequenceNetwork(core, input_size, output_size, **arguments["core_kwargs"])
