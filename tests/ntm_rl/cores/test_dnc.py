"""The DNC against plain loops written from the papers (Nature 538, 2016, and arXiv:1904.10278)."""

import itertools

import numpy as np
import pytest
import torch

from ntm_rl.addressing import dnc as dnc
from ntm_rl.cores.dnc import Dnc
from ntm_rl.errors import InputError
from references import sigmoid

B, N, M, R = 2, 5, 3, 2
FIXES = {"mask_content": True, "wipe_freed": True, "sharpen_links": True}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).random(shape)


def simplex(*shape: int, seed: int = 0, mass: float = 1.0) -> np.ndarray:
    weights = np.exp(draw(*shape, seed=seed))
    return mass * weights / weights.sum(-1, keepdims=True)


def run(function, *arrays: np.ndarray, **options) -> np.ndarray:
    return function(*map(torch.from_numpy, arrays), **options).numpy()


def oneplus(x):
    return 1 + np.log1p(np.exp(x))


def softmax(x):
    powers = np.exp(x - np.max(x))
    return powers / powers.sum()


# The equations for one sequence, one slot at a time.


def naive_retention(free_gates, read_weightings):
    kept = np.ones(read_weightings.shape[1])
    for gate, weighting in zip(free_gates, read_weightings, strict=True):
        for slot, weight in enumerate(weighting):
            kept[slot] *= 1 - gate * weight
    return kept


def naive_usage(last, written, kept):
    return np.array([(u + w - u * w) * psi for u, w, psi in zip(last, written, kept, strict=True)])


def naive_allocation(usage):
    usage = [1e-6 + (1 - 1e-6) * u for u in usage]
    order = sorted(range(len(usage)), key=lambda slot: usage[slot] + 1e-6 * slot)
    allocation = np.zeros(len(usage))
    for j, slot in enumerate(order):
        product = 1.0
        for earlier in order[:j]:
            product *= usage[earlier]
        allocation[slot] = (1 - usage[slot]) * product
    return allocation


def naive_content(memory, key, strength, mask=None):
    mask = np.ones_like(key) if mask is None else mask
    cosines = []
    for slot in memory:
        u, v = key * mask, slot * mask
        cosines.append(u @ v / np.sqrt(u @ u + 1e-6) / np.sqrt(v @ v + 1e-6))
    return softmax(strength * np.array(cosines))


def naive_links(last, precedence, written):
    links = np.zeros_like(last)
    for i in range(len(last)):
        for j in range(len(last)):
            if i != j:
                links[i, j] = (1 - written[i] - written[j]) * last[i, j] + written[i] * precedence[j]
    return links


def naive_precedence(last, written):
    return (1 - sum(written)) * last + written


def naive_sharpen(weighting, sharpness):
    powers = (weighting + 1e-8) ** sharpness
    return powers / powers.sum()


def test_retention_is_the_product_over_read_heads():
    gates, weightings = uniform(B, R), simplex(B, R, N)
    expected = [naive_retention(*each) for each in zip(gates, weightings, strict=True)]
    np.testing.assert_allclose(run(dnc.retention, gates, weightings), expected)


def test_usage_adds_the_last_write_and_subtracts_freed_slots():
    last, written, kept = uniform(B, N), simplex(B, N), uniform(B, N, seed=1)
    expected = [naive_usage(*each) for each in zip(last, written, kept, strict=True)]
    found = run(dnc.usage, last, written, kept)
    np.testing.assert_allclose(found, expected)
    assert (found >= 0).all() and (found <= 1).all()


def test_allocation_follows_the_free_list():
    usage = uniform(B, N)
    usage[0, [1, 3]] = 0, 1  # an empty slot and a full one
    found = run(dnc.allocation, usage)
    np.testing.assert_allclose(found, [naive_allocation(each) for each in usage])
    assert found[0, 1] > 0.999 and found[0, 3] == 0
    assert (found >= 0).all() and (found.sum(-1) <= 1 + 1e-9).all()


def test_a_full_memory_allocates_nothing_and_an_empty_one_its_first_slot():
    np.testing.assert_allclose(run(dnc.allocation, np.ones((1, N))), np.zeros((1, N)))
    empty = run(dnc.allocation, np.zeros((1, N)))[0]
    assert empty[0] == pytest.approx(1, abs=1e-5) and empty[1:].max() < 1e-5


def test_rounding_does_not_reorder_slots_of_the_same_usage():
    usage = torch.full((1, 64), 0.3)
    noise = 1e-8 * torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dnc.free_list(usage + noise), torch.arange(64).unsqueeze(0))


@pytest.mark.parametrize("usage", [0.0, 1.0])
def test_the_gradient_of_the_allocation_is_finite_at_usage_0_and_1(usage):
    usages = torch.full((1, 300), usage, requires_grad=True)
    (dnc.allocation(usages) * torch.randn(1, 300)).sum().backward()
    assert torch.isfinite(usages.grad).all()


def test_the_write_weighting_mixes_content_and_allocation():
    content, allocated, gates = simplex(B, N), simplex(B, N, seed=1), uniform(B, 2)
    found = run(dnc.write_weighting, content, allocated, gates[:, :1], gates[:, 1:])
    for b in range(B):
        choose, write = gates[b]
        np.testing.assert_allclose(found[b], write * (choose * allocated[b] + (1 - choose) * content[b]))


@pytest.mark.parametrize("wipe", [False, True])
def test_a_write_erases_and_adds_and_may_wipe_freed_slots(wipe):
    memory, weighting, erase, add, kept = draw(B, N, M), simplex(B, N), uniform(B, M), draw(B, M), uniform(B, N)
    found = run(dnc.write, memory, weighting, erase, add, kept=torch.from_numpy(kept) if wipe else None)
    for b in range(B):
        for n in range(N):
            left = memory[b, n] * (1 - weighting[b, n] * erase[b]) * (kept[b, n] if wipe else 1)
            np.testing.assert_allclose(found[b, n], left + weighting[b, n] * add[b])


def test_links_and_precedence_equal_loops_and_stay_below_one():
    links, precedence = np.zeros((B, N, N)), np.zeros((B, N))
    for step in range(6):
        written = simplex(B, N, seed=step, mass=0.9)
        found = run(dnc.links, links, precedence, written)
        expected = [naive_links(*each) for each in zip(links, precedence, written, strict=True)]
        np.testing.assert_allclose(found, expected)
        expected = [naive_precedence(*each) for each in zip(precedence, written, strict=True)]
        links, precedence = found, run(dnc.precedence, precedence, written)
        np.testing.assert_allclose(precedence, expected)
        assert (np.diagonal(links, axis1=1, axis2=2) == 0).all() and (links >= 0).all()
        assert links.sum(1).max() <= 1 and links.sum(2).max() <= 1 and precedence.sum(1).max() <= 1


def test_links_lead_from_each_slot_to_the_one_written_next_and_back():
    visited = [3, 1, 4, 0]
    links, precedence = torch.zeros(1, N, N), torch.zeros(1, N)
    for slot in visited:
        written = torch.eye(N)[slot].unsqueeze(0)
        links, precedence = dnc.links(links, precedence, written), dnc.precedence(precedence, written)
    for before, after in itertools.pairwise(visited):
        ahead = dnc.forward_weightings(links, torch.eye(N)[before].view(1, 1, N))
        back = dnc.backward_weightings(links, torch.eye(N)[after].view(1, 1, N))
        assert torch.equal(ahead[0, 0], torch.eye(N)[after]) and torch.equal(back[0, 0], torch.eye(N)[before])


def test_rounding_makes_no_link_negative():
    half = 0.5 * (1 + torch.finfo(torch.float32).eps)  # two of which are more than 1
    written, last = torch.tensor([[half, half, 0]]), torch.ones(1, 3, 3) - torch.eye(3)
    assert dnc.links(last, torch.zeros(1, 3), written)[0, 0, 1] == 0


def test_read_modes_mix_backward_content_and_forward():
    parts, modes = [simplex(B, R, N, seed=seed) for seed in range(3)], simplex(B, R, 3)
    found = run(dnc.read_weightings, *parts, modes)
    expected = sum(modes[..., mode, None] * part for mode, part in enumerate(parts))
    np.testing.assert_allclose(found, expected)


def test_masked_contents_are_compared_where_the_mask_is_open():
    memory, keys, strengths, masks = draw(B, N, M), draw(B, R, M), 1 + uniform(B, R), uniform(B, R, M)
    masks[0, 0] = 0
    found = run(dnc.masked_content_weighting, memory, keys, strengths, masks)
    for b in range(B):
        for r in range(R):
            expected = naive_content(memory[b], keys[b, r], strengths[b, r], masks[b, r])
            np.testing.assert_allclose(found[b, r], expected)
    np.testing.assert_allclose(found[0, 0], np.full(N, 1 / N))


class NaiveDnc:
    """One sequence at a time, from the papers; parameters taken from the core under test."""

    def __init__(self, core: Dnc):
        self.core = core
        self.p = {name: value.detach().numpy() for name, value in core.state_dict().items()}
        self.begin()

    def begin(self):
        slots, width, heads, size = self.core.slots, self.core.width, self.core.read_heads, self.core.hidden_size
        self.memory, self.links = np.zeros((slots, width)), np.zeros((slots, slots))
        self.usage, self.precedence, self.written = np.zeros(slots), np.zeros(slots), np.zeros(slots)
        self.weightings, self.reads = np.zeros((heads, slots)), np.zeros((heads, width))
        self.hidden, self.cell = np.zeros(size), np.zeros(size)

    def step(self, x):
        core, p, heads, width = self.core, self.p, self.core.read_heads, self.core.width
        feedback = np.concatenate([self.reads.ravel(), self.hidden])
        gates = p["controller.weight_input"] @ x + p["controller.weight_feedback"] @ feedback + p["controller.bias"]
        i, f, g, o = np.split(gates, 4)
        self.cell = sigmoid(f) * self.cell + sigmoid(i) * np.tanh(g)
        self.hidden = sigmoid(o) * np.tanh(self.cell)
        raw = p["interface_layer.weight"] @ self.hidden + p["interface_layer.bias"]
        raw = list(np.clip(raw, -core.clip, core.clip))

        def take(*shape):
            taken = np.array([raw.pop(0) for _ in range(int(np.prod(shape)))])
            return taken.reshape(shape)

        keys, add, modes = take(heads + 1, width), take(width), take(heads, 3)
        strengths = oneplus(take(heads + 1))
        sharpness = oneplus(take(2, heads)) if core.sharpen_links else None
        erase, free_gates, allocation_gate, write_gate = map(sigmoid, (take(width), take(heads), take(1), take(1)))
        masks = sigmoid(take(heads + 1, width)) if core.mask_content else [None] * (heads + 1)
        assert not raw

        kept = naive_retention(free_gates, self.weightings)
        self.usage = naive_usage(self.usage, self.written, kept)
        content = naive_content(self.memory, keys[-1], strengths[-1], masks[-1])
        allocation = naive_allocation(self.usage)
        self.written = write_gate * (allocation_gate * allocation + (1 - allocation_gate) * content)
        self.memory = self.memory * (1 - np.outer(self.written, erase)) * (kept[:, None] if core.wipe_freed else 1)
        self.memory = self.memory + np.outer(self.written, add)
        self.links = naive_links(self.links, self.precedence, self.written)
        self.precedence = naive_precedence(self.precedence, self.written)
        new = []
        for head in range(heads):
            last = self.weightings[head]
            backward, forward = self.links.T @ last, self.links @ last
            if core.sharpen_links:
                backward = naive_sharpen(backward, sharpness[0, head])
                forward = naive_sharpen(forward, sharpness[1, head])
            content = naive_content(self.memory, keys[head], strengths[head], masks[head])
            mode = softmax(modes[head])
            new.append(mode[0] * backward + mode[1] * content + mode[2] * forward)
        self.weightings = np.array(new)
        self.reads = self.weightings @ self.memory
        return np.concatenate([self.hidden, self.reads.ravel()])


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize(
    "options", [{}, *({name: True} for name in FIXES), {**FIXES, "read_heads": 3}, {"clip": 0.05}], ids=str
)
def test_steps_and_resets_equal_the_naive_implementation(options, backend):
    torch.manual_seed(0)
    core = Dnc(3, **{"slots": 6, "width": 4, "hidden_size": 5, "backend": backend, **options}).double()
    with torch.no_grad():
        core.interface_layer.weight.mul_(5)  # gates that open and shut
    inputs, resets = torch.randn(12, 2, 3, dtype=torch.float64), torch.zeros(12, 2, dtype=torch.bool)
    resets[5, 1] = True
    outputs, state = core(inputs, core.initial_state(2), resets)
    parts = core.unpack(state)
    for b in range(2):
        naive = NaiveDnc(core)
        for t in range(12):
            if resets[t, b]:
                naive.begin()
            expected = naive.step(inputs[t, b].numpy())
            np.testing.assert_allclose(outputs[t, b].detach(), expected, rtol=1e-6, atol=1e-9)
        for name, part in [
            ("memory", naive.memory),
            ("usage", naive.usage),
            ("links", naive.links),
            ("precedence", naive.precedence),
            ("write_weighting", naive.written),
            ("read_weightings", naive.weightings),
        ]:
            found = getattr(parts, name)[b].detach()
            np.testing.assert_allclose(found, part, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("options", [{"read_heads": 2}, FIXES], ids=str)
def test_gradients_of_parameters_equal_finite_differences(options):
    torch.manual_seed(1)
    core = Dnc(2, slots=4, width=2, hidden_size=2, backend="eager", **options).double()
    inputs = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    resets = torch.tensor([[False, False], [False, False], [False, True], [False, False]])
    parameters = list(core.parameters())
    assert torch.autograd.gradcheck(
        lambda inputs, *_: core(inputs, core.initial_state(2), resets)[0], (inputs, *parameters)
    )


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("options", [{}, FIXES], ids=str)
def test_gradients_of_long_sequences_are_finite(options, backend):
    torch.manual_seed(0)
    core = Dnc(3, hidden_size=16, backend=backend, **options)
    with torch.no_grad():
        core.interface_layer.weight.mul_(20)
    inputs = torch.randn(300, 2, 3, requires_grad=True)
    core(inputs, core.initial_state(2))[0].square().mean().backward()
    for tensor in (inputs.grad, *(parameter.grad for parameter in core.parameters())):
        assert torch.isfinite(tensor).all() and tensor.abs().sum() > 0


def test_identical_slots_become_different():
    torch.manual_seed(0)
    core = Dnc(3, slots=8, width=4, hidden_size=8)
    parts = core.unpack(core(torch.randn(5, 1, 3), core.initial_state(1))[1])
    # The first slots are allocated one after the other, and each comes to hold something else than its neighbours.
    assert (parts.memory[0, :4] - parts.memory[0, 1:5]).abs().amax(-1).min() > 1e-3
    assert parts.read_weightings.std(-1).min() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots = 0: must be an integer of at least 1"),
        ({"width": 2.5}, r"width = 2\.5: must be an integer of at least 1"),
        ({"read_heads": 0}, "read_heads = 0: must be an integer of at least 1"),
        ({"hidden_size": True}, "hidden_size = True: must be an integer of at least 1"),
        ({"mask_content": 1}, "mask_content = 1: must be true or false"),
        ({"wipe_freed": "no"}, "wipe_freed = 'no': must be true or false"),
        ({"sharpen_links": None}, "sharpen_links = None: must be true or false"),
        ({"clip": 0.0}, r"clip = 0\.0: must be a number above 0"),
        ({"clip": float("nan")}, "clip = nan: must be a number above 0"),
        ({"clip": "a"}, "clip = 'a': must be a number above 0"),
        ({"clip": True}, "clip = True: must be a number above 0"),
        ({"backend": "compile"}, r"backend = 'compile': must be one of auto, eager, fused\."),
    ],
)
def test_impossible_options_name_key_value_and_what_is_valid(options, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        Dnc(3, **options)
