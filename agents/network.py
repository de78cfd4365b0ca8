"""A memory core with an output layer, for supervised sequences, and its files."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ntm_rl.addressing import entropy
from ntm_rl.agents.export import CARD, WEIGHTS
from ntm_rl.agents.planning import build_filled, require_sizes
from ntm_rl.agents.storage import (
    StorageError,
    make_folder,
    read_tensors,
    weights_of,
    write_atomically,
    write_tensors,
)
from ntm_rl.core import make_core
from ntm_rl.ntm import Ntm

FORMAT, KIND = 1, "network"


class SequenceNetwork(nn.Module):
    """A memory core and the linear output layer of the NTM paper.

    Args:
        core: Name of a registered core.
        input_size: I.
        output_size: O.
        **core_kwargs: The core's options.

    Raises:
        InputError: unknown core or option.
    """

    def __init__(self, core: str, input_size: int, output_size: int, **core_kwargs: Any):
        super().__init__()
        self.core_name, self.core_kwargs = core, core_kwargs
        self.core = make_core(core, input_size, **core_kwargs)
        self.output = nn.Linear(self.core.output_size, output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the logits `[T, B, O]` of answers to inputs `[T, B, I]`."""
        logits: Tensor = self.output(self.core.outputs(inputs, self.core.initial_state(inputs.shape[1])))
        return logits

    def with_entropy(self, inputs: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Also looks how sharp an NTM's weightings are: after some steps, and at the end.

        Args:
            inputs: `[T, B, I]`.
            steps: After which to look, in order, each in (0, T).

        Returns:
            The logits `[T, B, O]`, and the mean entropy of the weightings in bits, a scalar.
        """
        assert isinstance(self.core, Ntm)
        state, outputs, entropies = self.core.initial_state(inputs.shape[1]), [], []
        for part in inputs.tensor_split(list(steps)):
            output, state = self.core(part, state)
            outputs.append(output)
            entropies.append(entropy(self.core.unpack(state).weightings).mean())
        return self.output(torch.cat(outputs)), torch.stack(entropies).mean()


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
