"""The sparse access memory against plain loops written from the paper (arXiv:1610.09027), and its memory use."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.cores import sam_sequence as sparse_sequence
from ntm_rl.cores.sam import Sam, SamState
from ntm_rl.errors import InputError
from references import sigmoid


class NaiveSam:
    """One sequence at a time, from the paper; parameters taken from the core under test."""

    def __init__(self, core: Sam):
        self.core = core
        self.p = {name: value.detach().numpy() for name, value in core.state_dict().items()}
        self.begin()

    def begin(self):
        core = self.core
        self.memory = np.zeros((core.slots, core.width))
        self.last_access, self.clock = [0] * core.slots, 0
        self.slots_read = [[] for _ in range(core.heads)]
        self.weights = [[] for _ in range(core.heads)]
        self.reads = np.zeros((core.heads, core.width))
        self.hidden, self.cell = np.zeros(core.hidden_size), np.zeros(core.hidden_size)

    def step(self, x):
        core, p = self.core, self.p
        heads, width, count = core.heads, core.width, core.slots_read
        feedback = np.concatenate([self.reads.ravel(), self.hidden])
        gates = p["controller.weight_input"] @ x + p["controller.weight_feedback"] @ feedback + p["controller.bias"]
        i, f, g, o = np.split(gates, 4)
        self.cell = sigmoid(f) * self.cell + sigmoid(i) * np.tanh(g)
        self.hidden = sigmoid(o) * np.tanh(self.cell)
        raw = p["interface_layer.weight"] @ self.hidden + p["interface_layer.bias"]
        raw = np.clip(raw, -core.clip, core.clip)
        queries, adds, betas, alphas, gammas = np.split(raw, np.cumsum([heads * width, heads * width, heads, heads]))
        queries, adds = queries.reshape(heads, width), adds.reshape(heads, width)
        betas, alphas, gammas = 1 + np.log1p(np.exp(betas)), sigmoid(alphas), sigmoid(gammas)

        least_recent = sorted(range(core.slots), key=lambda slot: (self.last_access[slot], slot))[:heads]
        touched = []  # (slot, weight), in the order in which accesses are counted
        for head in range(heads):
            read = list(zip(self.slots_read[head], self.weights[head], strict=True)) or [(0, 0.0)] * count
            touched.append((least_recent[head], alphas[head] * (1 - gammas[head])))  # eq. 5
            touched += [(slot, alphas[head] * gammas[head] * weight) for slot, weight in read]
        for slot in least_recent:
            self.memory[slot] = 0
        for place, (slot, weight) in enumerate(touched):
            self.memory[slot] = self.memory[slot] + weight * adds[place // (1 + count)]
        for head, query in enumerate(queries):
            scores = [query @ slot / np.sqrt(slot @ slot + 1e-6) for slot in self.memory]
            order = sorted(range(core.slots), key=lambda slot, scores=scores: 1e-10 * slot - scores[slot])
            self.slots_read[head] = sorted(order[:count])
            cosines = np.array([scores[slot] for slot in self.slots_read[head]]) / np.sqrt(query @ query + 1e-6)
            powers = np.exp(betas[head] * cosines)
            self.weights[head] = powers / powers.sum()
            self.reads[head] = self.weights[head] @ self.memory[self.slots_read[head]]
            touched += zip(self.slots_read[head], self.weights[head], strict=True)
        for slot, weight in touched:
            self.clock += 1
            if weight > 0.005:
                self.last_access[slot] = self.clock
        return np.concatenate([self.hidden, self.reads.ravel()])


def full_state(core: Sam, batch: int, seed: int = 0) -> torch.Tensor:
    """A state whose slots are all in use, as late in an episode."""
    generator = torch.Generator().manual_seed(seed)
    parts = core.unpack(core.initial_state(batch))
    slots = core.slots
    order = torch.stack([torch.randperm(slots, generator=generator) for _ in range(batch)])
    size = (batch, core.heads, core.slots_read)
    parts = parts._replace(
        memory=torch.randn(parts.memory.shape, generator=generator, dtype=parts.memory.dtype),
        last_access=1.0 + order,
        clock=torch.full((batch, 1), float(slots)),
        slots_read=order[:, : core.slots_read].sort().values.unsqueeze(1).expand(size),
        read_weights=torch.softmax(torch.randn(size, generator=generator), dim=-1),
    )
    return torch.cat([torch.ones(batch, 1), *(part.flatten(1) for part in parts)], dim=1).to(parts.memory.dtype)


@pytest.mark.parametrize("options", [{}, {"heads": 3}, {"slots_read": 9, "heads": 2}, {"clip": 0.05}], ids=str)
def test_steps_and_resets_equal_the_naive_implementation(options):
    torch.manual_seed(0)
    core = Sam(3, **{"slots": 9, "width": 4, "slots_read": 2, "hidden_size": 6, **options}).double()
    with torch.no_grad():
        core.interface_layer.weight.mul_(10)
    steps = 25
    inputs, resets = torch.randn(steps, 2, 3, dtype=torch.float64), torch.zeros(steps, 2, dtype=torch.bool)
    resets[14, 1] = True
    outputs, state = core(inputs, core.initial_state(2), resets)
    parts = core.unpack(state.detach())
    for b in range(2):
        naive = NaiveSam(core)
        for t in range(steps):
            if resets[t, b]:
                naive.begin()
            expected = naive.step(inputs[t, b].numpy())
            np.testing.assert_allclose(outputs[t, b].detach(), expected, rtol=1e-6, atol=1e-9, err_msg=f"step {t}")
        np.testing.assert_allclose(parts.memory[b].detach(), naive.memory, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(parts.last_access[b], naive.last_access)
        np.testing.assert_array_equal(parts.slots_read[b], naive.slots_read)
        np.testing.assert_allclose(parts.read_weights[b].detach(), naive.weights, rtol=1e-6)
        assert parts.clock[b].item() == naive.clock


@pytest.mark.parametrize(
    ("options", "wants_state"), [({}, True), ({}, False), ({"heads": 2}, True), ({"slots_read": 1}, True)], ids=str
)
def test_gradients_equal_finite_differences_where_few_of_many_slots_are_read(options, wants_state):
    torch.manual_seed(1)
    core = Sam(2, **{"slots": 6, "width": 2, "slots_read": 2, "hidden_size": 2, **options}).double()
    with torch.no_grad():
        core.interface_layer.weight.mul_(3)
    inputs = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    state = full_state(core, 2).requires_grad_()
    resets = torch.zeros(5, 2, dtype=torch.bool)
    resets[2, 0] = resets[3, 0] = resets[2, 1] = True

    def run(inputs, state, *_):
        if not wants_state:
            return core.outputs(inputs, state, resets)
        outputs, after = core(inputs, state, resets)
        return outputs, after[:, 1:]

    assert torch.autograd.gradcheck(run, (inputs, state, *core.parameters()))


def test_the_gradient_of_the_last_state_alone_equals_finite_differences():
    torch.manual_seed(2)
    core = Sam(2, slots=6, width=2, slots_read=2, hidden_size=2).double()
    inputs = torch.randn(3, 1, 2, dtype=torch.float64, requires_grad=True)
    state = full_state(core, 1).requires_grad_()
    for part in ("memory", "read_weights", "reads", "hidden", "cell"):
        assert torch.autograd.gradcheck(
            lambda inputs, state, part=part: getattr(core.unpack(core(inputs, state)[1]), part), (inputs, state)
        )


def test_a_second_backward_pass_gives_the_same_gradients():
    core = Sam(3, slots=16, width=4, hidden_size=8)
    outputs, state = core(torch.randn(5, 2, 3), full_state(core, 2))
    loss = outputs.square().sum() + state.square().sum()
    parameters = list(core.parameters())
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other) and one.abs().sum() > 0


def test_the_given_state_is_not_modified():
    core = Sam(3, slots=16, width=4, hidden_size=8)
    state = full_state(core, 2)
    before = state.clone()
    core.outputs(torch.randn(5, 2, 3), state).sum().backward()
    assert torch.equal(state, before)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([5, 300, 1024, 4096, 8192]), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_lookups_find_the_largest(slots, count, heads, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, heads, slots, generator=generator).mul(4).round()  # with ties
    found = sparse_sequence.largest(values, count)
    assert torch.equal(values.gather(-1, found), values.topk(count).values)
    assert all(len(set(each)) == count for each in found.flatten(0, 1).tolist())


def held_bytes() -> int:
    """Bytes of all tensors that Python tracks."""
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage() for each in gc.get_objects() if is_tensor(each)
    }
    return sum(storage.nbytes() for storage in storages.values())


def is_tensor(thing: object) -> bool:
    return type(thing) in (torch.Tensor, torch.nn.Parameter)


def test_memory_for_the_backward_pass_does_not_grow_with_the_slots():
    core = Sam(3, slots=65_536, width=16, hidden_size=8)
    state, memory = core.initial_state(1), 65_536 * 16 * 4
    gc.collect()
    before = held_bytes()
    inputs = torch.randn(64, 1, 3, requires_grad=True)
    outputs, after = core(inputs, state)
    gc.collect()
    assert held_bytes() - before < 1.2 * memory  # the state after; 64 steps of it would be 64
    kept = outputs.grad_fn.saved_tensors if hasattr(outputs.grad_fn, "saved_tensors") else ()
    assert sum(each.nbytes for each in kept) < 2.2 * memory  # the state before, which its owner holds, and that after
    (outputs.sum() + after.sum()).backward()
    assert torch.isfinite(inputs.grad).all() and inputs.grad.abs().sum() > 0


def test_everything_is_freed_with_the_outputs():
    core = Sam(3, slots=4096, width=16, hidden_size=8)
    state = core.initial_state(2)
    gc.collect()
    before = held_bytes()
    gc.disable()  # what only a search for cycles would free stays
    try:
        for _ in range(3):
            core(torch.randn(4, 2, 3), state)
        assert held_bytes() - before < 1e5
    finally:
        gc.enable()


def test_gradients_of_long_sequences_are_finite():
    torch.manual_seed(0)
    core = Sam(3, slots=64, hidden_size=16, heads=2)
    with torch.no_grad():
        core.interface_layer.weight.mul_(20)
    inputs = torch.randn(300, 2, 3, requires_grad=True)
    core(inputs, core.initial_state(2))[0].square().mean().backward()
    for tensor in (inputs.grad, *(parameter.grad for parameter in core.parameters())):
        assert torch.isfinite(tensor).all() and tensor.abs().sum() > 0


def test_slots_are_filled_in_order_and_then_the_least_recent_is_reused():
    core = Sam(3, slots=4, width=3, slots_read=1, hidden_size=5)
    with torch.no_grad():
        core.interface_layer.weight.zero_()
        core.interface_layer.bias[-2:] = torch.tensor([20.0, -20.0])  # alpha 1, gamma 0: to the least recent slot
        core.interface_layer.bias[:3] = torch.tensor([1.0, 0, 0])
    state, added = core.initial_state(1), []
    for step in range(6):
        add = torch.eye(3)[1] * (step + 1)
        with torch.no_grad():
            core.interface_layer.bias[3:6] = add
        _, state = core(torch.zeros(1, 1, 3), state)
        parts: SamState = core.unpack(state)
        added.append(parts.memory[0, :, 1].round().tolist())
    # All slots are equally like the query, so that the first is read and stays recent.
    assert added == [[1, 0, 0, 0], [1, 2, 0, 0], [1, 2, 3, 0], [1, 2, 3, 4], [1, 5, 3, 4], [1, 5, 6, 4]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 3}, r"slots = 3: must be an integer of at least 4 \(the larger of heads and slots_read\)"),
        (
            {"slots": 5, "heads": 6},
            r"slots = 5: must be an integer of at least 6 \(the larger of heads and slots_read\)",
        ),
        ({"slots": 2**24 + 1}, "slots = 16777217: must be at most 16777216"),
        ({"slots_read": 0}, "slots_read = 0: must be an integer of at least 1"),
        ({"heads": 1.5}, r"heads = 1\.5: must be an integer of at least 1"),
        ({"width": 0}, "width = 0: must be an integer of at least 1"),
        ({"clip": None}, "clip = None: must be a number above 0"),
    ],
)
def test_impossible_options_name_key_value_and_what_is_valid(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Sam(3, **options)
