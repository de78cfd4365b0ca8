"""Files of networks with hostile cards."""

import pytest

from ntm_rl.agents.policy.network_files import load_network, save_network
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.tensors import read_tensors, write_tensors


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card["arguments"].update(core="lst"),
        lambda card: card["arguments"].update(input_size=10**9),
        lambda card: card["arguments"].update(core_kwargs={"slots": 10**12}),
        lambda card: card.pop("arguments"),
        lambda card: card.update(kind="agent"),
        lambda card: card.update(format=1),
    ],
)
def test_a_hostile_card_is_one_clear_error(tmp_path, change):
    save_network(SequenceNetwork("ntm", 3, 2, slots=6, width=4, hidden_size=5), tmp_path, {})
    tensors, card = read_tensors(tmp_path / "weights.safetensors")
    change(card)
    write_tensors(tmp_path / "weights.safetensors", tensors, card)
    with pytest.raises(StorageError, match=r"weights\.safetensors: "):
        load_network(tmp_path)
