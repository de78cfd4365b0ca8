"""The MANN against plain loops written from the paper (arXiv:1605.06065, section 3)."""

import numpy as np
import pytest
import torch

from ntm_rl.cores import mann
from ntm_rl.cores.mann import Mann
from ntm_rl.errors import InputError
from references import sigmoid

B, N, M, R = 2, 6, 3, 2


def simplex(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


class NaiveMann:
    """One sequence at a time, from the paper; parameters taken from the core under test."""

    def __init__(self, core: Mann):
        self.core = core
        self.p = {name: value.detach().numpy() for name, value in core.state_dict().items()}
        self.begin()

    def begin(self):
        slots, width, heads, size = self.core.slots, self.core.width, self.core.heads, self.core.hidden_size
        self.memory, self.usage = np.zeros((slots, width)), np.zeros(slots)
        self.read_weightings, self.reads = np.zeros((heads, slots)), np.zeros((heads, width))
        self.hidden, self.cell = np.zeros(size), np.zeros(size)

    def step(self, x):
        core, p = self.core, self.p
        heads, width, slots = core.heads, core.width, core.slots
        feedback = np.concatenate([self.reads.ravel(), self.hidden])
        gates = p["controller.weight_input"] @ x + p["controller.weight_feedback"] @ feedback + p["controller.bias"]
        i, f, g, o = np.split(gates, 4)
        self.cell = sigmoid(f) * self.cell + sigmoid(i) * np.tanh(g)
        self.hidden = sigmoid(o) * np.tanh(self.cell)
        raw = p["interface_layer.weight"] @ self.hidden + p["interface_layer.bias"]
        raw = np.clip(raw, -core.clip, core.clip)
        keys, alphas = raw[: heads * width].reshape(heads, width), raw[heads * width :]

        least_used = sorted(range(slots), key=lambda slot: self.usage[slot] + 1e-6 * slot)[:heads]  # eq. 6
        written = np.zeros((heads, slots))
        for j in range(heads):
            for slot in range(slots):  # eq. 7
                is_least = float(slot == least_used[j])
                written[j, slot] = sigmoid(alphas[j]) * self.read_weightings[j, slot]
                written[j, slot] += (1 - sigmoid(alphas[j])) * is_least
        for slot in least_used:
            self.memory[slot] = 0
        for j in range(heads):
            for slot in range(slots):
                self.memory[slot] += written[j, slot] * keys[j]  # eq. 8
        for j in range(heads):
            scores = np.zeros(slots)
            for slot in range(slots):  # eqs. 2 and 3
                norms = np.sqrt(keys[j] @ keys[j] + 1e-6) * np.sqrt(self.memory[slot] @ self.memory[slot] + 1e-6)
                scores[slot] = (keys[j] @ self.memory[slot]) / norms
            self.read_weightings[j] = np.exp(scores) / np.exp(scores).sum()
            self.reads[j] = sum(self.read_weightings[j, slot] * self.memory[slot] for slot in range(slots))  # eq. 4
        for slot in range(slots):  # eq. 5
            self.usage[slot] = core.usage_decay * self.usage[slot]
            self.usage[slot] += self.read_weightings[:, slot].sum() + written[:, slot].sum()
        return np.concatenate([self.hidden, self.reads.ravel()])


@pytest.mark.parametrize("options", [{}, {"heads": 3}, {"usage_decay": 0.0}, {"clip": 0.05}], ids=str)
def test_steps_and_resets_equal_the_naive_implementation(options):
    torch.manual_seed(0)
    core = Mann(3, **{"slots": 5, "width": 4, "hidden_size": 6, **options}).double()
    with torch.no_grad():
        core.interface_layer.weight.mul_(5)
    inputs, resets = torch.randn(12, 2, 3, dtype=torch.float64), torch.zeros(12, 2, dtype=torch.bool)
    resets[5, 1] = True
    outputs, state = core(inputs, core.initial_state(2), resets)
    parts = core.unpack(state)
    for b in range(2):
        naive = NaiveMann(core)
        for t in range(12):
            if resets[t, b]:
                naive.begin()
            expected = naive.step(inputs[t, b].numpy())
            np.testing.assert_allclose(outputs[t, b].detach(), expected, rtol=1e-6, atol=1e-9)
        for name in ("memory", "usage", "read_weightings"):
            found = getattr(parts, name)[b].detach()
            np.testing.assert_allclose(found, getattr(naive, name), rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_of_parameters_equal_finite_differences(heads):
    torch.manual_seed(1)
    core = Mann(2, slots=4, width=2, hidden_size=2, heads=heads).double()
    inputs = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    resets = torch.tensor([[False, False], [False, False], [False, True], [False, False]])
    parameters = list(core.parameters())
    assert torch.autograd.gradcheck(
        lambda inputs, *_: core(inputs, core.initial_state(2), resets)[0], (inputs, *parameters)
    )


def test_each_head_gets_a_slot_of_its_own_among_the_least_used():
    usage = torch.tensor([[3.0, 0.5, 2.0, 0.1, 9.0, 0.5]])
    assert mann.least_used_weightings(usage, 3).argmax(-1).tolist() == [[3, 1, 5]]


@pytest.mark.parametrize(("gate", "part"), [(0.0, 0), (1.0, 1)])
def test_the_gate_mixes_the_least_used_slot_and_the_slots_read_last(gate, part):
    reads, least = simplex(B, R, N), mann.least_used_weightings(simplex(B, N), R)
    found = mann.write_weightings(reads, least, torch.full((B, R), gate, dtype=torch.float64))
    torch.testing.assert_close(found, (least, reads)[part])


def test_a_write_wipes_only_the_least_used_slots():
    memory, least = torch.ones(1, N, M), torch.zeros(1, 1, N)
    least[..., 2] = 1
    found = mann.write(memory, least, torch.zeros(1, 1, N), torch.ones(1, 1, M))
    assert torch.equal(found[0, 2], torch.zeros(M)) and found.sum() == (N - 1) * M


def test_slots_are_filled_in_order():
    torch.manual_seed(0)
    core = Mann(3, slots=8, width=4, hidden_size=8)
    with torch.no_grad():
        core.interface_layer.bias[4] = -20.0  # the head writes to the least used slot
    parts = core.unpack(core(torch.randn(5, 1, 3), core.initial_state(1))[1])
    filled = parts.memory[0].abs().amax(-1) > 1e-2
    assert filled.tolist() == 5 * [True] + 3 * [False]


def test_gradients_of_long_sequences_are_finite():
    torch.manual_seed(0)
    core = Mann(3, hidden_size=16, heads=2)
    with torch.no_grad():
        core.interface_layer.weight.mul_(20)
    inputs = torch.randn(300, 2, 3, requires_grad=True)
    core(inputs, core.initial_state(2))[0].square().mean().backward()
    for tensor in (inputs.grad, *(parameter.grad for parameter in core.parameters())):
        assert torch.isfinite(tensor).all() and tensor.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 2, "heads": 3}, r"slots = 2: must be an integer of at least 3 \(heads\)"),
        ({"heads": 0}, "heads = 0: must be an integer of at least 1"),
        ({"width": None}, "width = None: must be an integer of at least 1"),
        ({"usage_decay": 1.0}, r"usage_decay = 1\.0: must be a number of at least 0 and below 1"),
        ({"usage_decay": -0.1}, r"usage_decay = -0\.1: must be a number of at least 0 and below 1"),
        ({"usage_decay": "slow"}, "usage_decay = 'slow': must be a number of at least 0 and below 1"),
        ({"clip": -1}, "clip = -1: must be a number above 0"),
    ],
)
def test_impossible_options_name_key_value_and_what_is_valid(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Mann(3, **options)
