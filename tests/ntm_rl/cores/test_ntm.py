"""The NTM against a second implementation in plain NumPy, and its initialisations and numerics."""

import numpy as np
import pytest
import torch

from ntm_rl.cores.ntm import Ntm
from ntm_rl.errors import InputError
from references import sigmoid

CONTROLLERS = ["lstm", "gru", "feedforward"]


def softmax(x):
    powers = np.exp(x - x.max())
    return powers / powers.sum()


class NaiveNtm:
    """One sequence at a time, one head at a time, from the paper; parameters taken from the core under test."""

    def __init__(self, core: Ntm):
        self.core = core
        self.p = {name: value.detach().double().numpy() for name, value in core.state_dict().items()}

    def start(self):
        core, p = self.core, self.p

        def weightings(logits, heads):
            return [softmax(10 * p[logits][k]) if logits in p else np.eye(core.slots)[0] for k in range(heads)]

        self.memory = p.get("start_memory", np.full((core.slots, core.width), 1e-6)).copy()
        self.weightings = weightings("start_read_logits", core.read_heads)
        self.weightings += weightings("start_write_logits", core.write_heads)
        self.reads = p["start_reads"].copy()
        self.hidden, self.cell = np.zeros(core.hidden_size), np.zeros(core.hidden_size)

    def step(self, x):
        core, p = self.core, self.p
        self.control(x)
        raw = np.clip(p["head_layer.weight"] @ self.hidden + p["head_layer.bias"], -core.clip, core.clip)
        groups = np.split(raw, np.cumsum(core._head_sizes)[:-1])
        keys, strengths, gates, shifts, exponents, erases, adds = groups
        heads, reach = core.heads, core.shifts // 2
        new = []
        for k in range(heads):
            key = keys.reshape(heads, -1)[k]
            similarity = [slot @ key / np.sqrt(slot @ slot + 1e-6) / np.sqrt(key @ key + 1e-6) for slot in self.memory]
            content = softmax(np.log1p(np.exp(strengths[k])) * np.array(similarity))
            gate = sigmoid(gates[k])
            gated = gate * content + (1 - gate) * self.weightings[k]
            shift = softmax(shifts.reshape(heads, -1)[k])
            moved = sum(shift[i] * np.roll(gated, i - reach) for i in range(core.shifts))
            powers = (moved + 1e-8) ** (1 + np.log1p(np.exp(exponents[k])))
            new.append(powers / powers.sum())
        self.weightings = new
        write = list(
            zip(new[core.read_heads :], erases.reshape(-1, core.width), adds.reshape(-1, core.width), strict=True)
        )
        for weighting, erase, _ in write:
            self.memory = self.memory * (1 - np.outer(weighting, sigmoid(erase)))
        for weighting, _, add in write:
            self.memory = self.memory + np.outer(weighting, add)
        self.reads = np.array([weighting @ self.memory for weighting in new[: core.read_heads]])
        return np.concatenate([self.hidden, self.reads.ravel()])

    def control(self, x):
        p, size, reads = self.p, self.core.hidden_size, self.reads.ravel()
        total = p["weight_input"] @ x + p["bias"]
        if self.core.controller == "feedforward":
            self.hidden = np.tanh(total + p["weight_feedback"] @ reads)
        elif self.core.controller == "lstm":
            i, f, g, o = np.split(total + p["weight_feedback"] @ np.concatenate([reads, self.hidden]), 4)
            self.cell = sigmoid(f) * self.cell + sigmoid(i) * np.tanh(g)
            self.hidden = sigmoid(o) * np.tanh(self.cell)
        else:
            total = total + p["weight_read"] @ reads
            recurrent = p["weight_hidden"] @ self.hidden
            r = sigmoid(total[:size] + recurrent[:size])
            z = sigmoid(total[size : 2 * size] + recurrent[size : 2 * size])
            n = np.tanh(total[2 * size :] + r * (recurrent[2 * size :] + p["bias_candidate"]))
            self.hidden = (1 - z) * n + z * self.hidden


OPTIONS = [
    {},
    {"read_heads": 2, "write_heads": 3, "shift_range": 2},
    {"memory_init": "learned", "learned_start": True},
    {"memory_init": "random", "init": "tape"},
    {"clip": 0.05},
]


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_and_resets_equal_the_naive_implementation(controller, options, backend):
    torch.manual_seed(0)
    core = Ntm(3, slots=6, width=4, hidden_size=5, controller=controller, backend=backend, **options).double()
    steps, batch = 6, 2
    inputs = torch.randn(steps, batch, 3, dtype=torch.float64)
    resets = torch.zeros(steps, batch, dtype=torch.bool)
    resets[3, 1] = True
    outputs, state = core(inputs, core.initial_state(batch), resets)
    parts = core.unpack(state)
    for b in range(batch):
        naive = NaiveNtm(core)
        naive.start()
        for t in range(steps):
            if resets[t, b]:
                naive.start()
            np.testing.assert_allclose(outputs[t, b].detach(), naive.step(inputs[t, b].numpy()), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(parts.memory[b].detach(), naive.memory, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(parts.weightings[b].detach(), naive.weightings, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_gradients_equal_finite_differences(controller):
    torch.manual_seed(1)
    options = {"slots": 3, "width": 2, "hidden_size": 2, "memory_init": "learned", "learned_start": True}
    core = Ntm(2, controller=controller, backend="eager", **options).double()
    inputs = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        _, state = core(inputs, core.initial_state(2))
    state.requires_grad_()
    resets = torch.tensor([[False, False], [False, True], [False, False]])
    parameters = list(core.parameters())

    def run(inputs, state, *_):
        outputs, after = core(inputs, state, resets)
        return outputs, after[:, 1:]

    assert torch.autograd.gradcheck(run, (inputs, state, *parameters))


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_learned_initial_states_are_trained_through_an_all_zero_state_and_through_resets(controller, backend):
    options = {"memory_init": "learned", "learned_start": True, "controller": controller, "backend": backend}
    core = Ntm(2, slots=4, width=3, hidden_size=4, **options)
    learned = [core.start_memory, core.start_reads, core.start_read_logits, core.start_write_logits]
    for state, resets in [
        (core.initial_state(1), None),
        (torch.ones(1, core.state_size), torch.ones(1, 1, dtype=torch.bool)),
    ]:
        core.zero_grad()
        outputs, _ = core(torch.ones(1, 1, 2), state, resets)
        outputs.sum().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in learned)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_nothing_overflows_for_many_slots_long_sequences_and_huge_inputs(controller, autocast):
    torch.manual_seed(0)
    core = Ntm(3, slots=4096, width=2, hidden_size=8, controller=controller, backend="eager")
    inputs = (1e4 * torch.randn(1000, 1, 3)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs, state = core(inputs, core.initial_state(1))
    outputs.square().mean().backward()
    assert torch.isfinite(outputs).all() and torch.isfinite(state).all()
    assert torch.isfinite(inputs.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in core.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_heads_sharpened_to_the_fiftieth_power_stay_on_the_simplex_and_are_trained(controller, backend):
    torch.manual_seed(0)
    core = Ntm(3, slots=16, width=4, hidden_size=8, clip=60.0, controller=controller, backend=backend)
    with torch.no_grad():
        core.head_layer.bias.split(core._head_sizes)[4].fill_(49.0)
    inputs = torch.randn(50, 2, 3, requires_grad=True)
    outputs, state = core(inputs, core.initial_state(2))
    torch.testing.assert_close(core.unpack(state).weightings.sum(-1), torch.ones(2, 2))
    outputs.square().mean().backward()
    for tensor in (outputs, state, inputs.grad, *(parameter.grad for parameter in core.parameters())):
        assert torch.isfinite(tensor).all()
    assert core.head_layer.weight.grad.abs().sum() > 0


def test_identical_slots_become_different():
    torch.manual_seed(0)
    core = Ntm(3, slots=8, width=4, hidden_size=8)
    _, state = core(torch.randn(5, 1, 3), core.initial_state(1))
    parts = core.unpack(state)
    assert parts.weightings.std(-1).min() > 1e-3
    assert parts.memory.std(1).max() > 1e-3


def test_a_tapes_write_head_moves_by_one_slot_and_its_read_head_stays_soft():
    core = Ntm(3, slots=10, width=4, hidden_size=8, init="tape")
    visited, state = [], core.initial_state(1)
    for _ in range(12):
        _, state = core(torch.zeros(1, 1, 3), state)
        read, write = core.unpack(state).weightings[0]
        visited.append(write.argmax().item())
        assert write.max() > 0.8
        assert read.max() < 0.2
    assert visited == [step % 10 for step in range(1, 13)]


@pytest.mark.parametrize("logit", [1.0, 6.0])
def test_a_tapes_logit_is_that_of_the_shift_and_minus_that_of_the_gate(logit):
    core = Ntm(3, slots=5, hidden_size=8, init="tape", tape_logit=logit)
    with torch.no_grad():
        core.head_layer.weight.zero_()
    _, state = core(torch.zeros(1, 1, 3), core.initial_state(1))
    gate, step = 1 / (1 + np.exp(logit)), np.exp(logit) / (2 + np.exp(logit))
    gated = gate / 5 + (1 - gate) * np.eye(5)[0]  # all slots of the first memory are alike
    shifted = step * np.roll(gated, 1) + (1 - step) / 2 * (gated + np.roll(gated, -1))
    sharp = shifted ** (1 + np.log1p(np.exp(2.0)))
    np.testing.assert_allclose(core.unpack(state).weightings[0, 1].detach(), sharp / sharp.sum(), atol=1e-5)


def test_the_scale_of_a_learned_initial_weighting_multiplies_its_learning_rate_alone():
    weightings = {}
    for scale in (10.0, 100.0):
        torch.manual_seed(0)
        core = Ntm(3, slots=6, hidden_size=8, init="tape", start_scale=scale)
        weighting = core.unpack(core.initial_state(1)).weightings[0, 0]
        (gradient,) = torch.autograd.grad(weighting[2], core.start_read_logits)
        expected = scale * weighting[2] * (torch.eye(6)[2] - weighting)
        torch.testing.assert_close(gradient[0], expected)
        weightings[scale] = weighting
    torch.testing.assert_close(weightings[10.0], weightings[100.0])


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("slots", [64, 128])
def test_a_tapes_learned_read_weighting_keeps_its_shape_while_heads_move(slots, controller):
    def entropy(weighting):
        return -(weighting * weighting.log()).sum()

    torch.manual_seed(0)
    core = Ntm(4, slots=slots, hidden_size=32, init="tape", controller=controller)
    state, visited = core.initial_state(1), []
    start = core.unpack(state).weightings[0, 0].detach()
    with torch.no_grad():
        for inputs in torch.randn(64, 1, 1, 4):
            _, state = core(inputs, state)
            read, write = core.unpack(state).weightings[0]
            visited.append(write.argmax().item())
    assert visited == [step % slots for step in range(1, 65)]
    torch.testing.assert_close(entropy(read), entropy(start), rtol=0.02, atol=0)
    assert (read - start.roll(64)).abs().sum() / 2 < 0.1  # of the weight, less than a tenth is elsewhere


def test_heads_of_a_tape_move_forward_backward_and_not_at_all_in_turn():
    core = Ntm(3, slots=10, width=4, hidden_size=8, read_heads=2, write_heads=4, init="tape")
    _, state = core(torch.zeros(3, 1, 3), core.initial_state(1))
    parts, start = core.unpack(state), core.unpack(core.initial_state(1))
    assert parts.weightings[0, 2:].argmax(-1).tolist() == [3, 7, 0, 3]
    for head, moved in ((0, 3), (1, -3)):
        expected = start.weightings[0, head].roll(moved)
        torch.testing.assert_close(parts.weightings[0, head], expected, rtol=0, atol=0.02)


def test_a_mixed_ntm_moves_two_read_heads_and_reads_by_content_with_the_others():
    torch.manual_seed(0)
    core = Ntm(3, slots=10, width=4, hidden_size=8, read_heads=4, write_heads=2, init="mixed", tape_logit=6.0)
    _, state = core(torch.randn(3, 1, 3), core.initial_state(1))
    parts, start = core.unpack(state), core.unpack(core.initial_state(1))
    assert parts.weightings[0, 4:].argmax(-1).tolist() == [3, 7]
    for head, moved in ((0, 3), (1, -3)):
        torch.testing.assert_close(parts.weightings[0, head], start.weightings[0, head].roll(moved), rtol=0, atol=0.02)
    with torch.no_grad():
        heads = core.head_parameters(parts.hidden)
    assert (heads.gates[0, 2:4] > 0.8).all() and (heads.strengths[0, 2:4] > 2).all()
    assert (heads.shifts[0, 2:4, 1] > 0.7).all()


@pytest.mark.parametrize("memory_init", ["learned", "random"])
def test_content_initialised_heads_find_the_slot_of_their_key(memory_init):
    torch.manual_seed(0)
    core = Ntm(3, slots=64, width=16, hidden_size=8, memory_init=memory_init, init="content")
    contents = core.unpack(core.initial_state(1)).memory[0]
    with torch.no_grad():
        core.head_layer.weight.zero_()
        core.head_layer.bias[:32] = contents[[5, 40]].flatten()  # the keys of the read head and of the write head
    _, state = core(torch.randn(3, 1, 3), core.initial_state(1))
    weightings = core.unpack(state).weightings[0]
    assert weightings.argmax(-1).tolist() == [5, 40]  # a write leaves enough of the name
    assert weightings.max(-1).values.min() > 0.4


def test_keys_of_a_positional_memory_refer_to_positions():
    torch.manual_seed(0)
    contents = Ntm(3, slots=64, width=64, memory_init="positional", init="content").start_memory.detach().double()
    assert 0.4 < contents.std() < 0.6  # as a learned one
    rows = contents / contents.norm(dim=1, keepdim=True)
    similarity = rows @ rows.t()
    by_distance = torch.stack([similarity.diagonal(distance).mean() for distance in range(33)])
    assert (by_distance[:8].diff() < -0.01).all() and by_distance[1] > 0.9  # the nearer the liker
    assert similarity.argsort(descending=True)[:, 0].tolist() == list(range(64)) and by_distance[20:].max() < 0.5


def test_unpacking_an_unused_state_gives_the_initial_state():
    core = Ntm(3, slots=5, width=4, hidden_size=6, read_heads=2)
    parts = core.unpack(core.initial_state(2))
    assert parts.memory.shape == (2, 5, 4) and parts.weightings.shape == (2, 3, 5) and parts.reads.shape == (2, 2, 4)
    assert parts.hidden.shape == parts.cell.shape == (2, 6)
    assert torch.equal(parts.memory, torch.full((2, 5, 4), 1e-6))
    assert torch.equal(parts.weightings[..., 0], torch.ones(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 2}, r"slots = 2: must be an integer of at least 3 \(2 \* shift_range \+ 1\)$"),
        ({"slots": 6, "shift_range": 3}, r"slots = 6: must be an integer of at least 7 \(2 \* shift_range \+ 1\)$"),
        ({"slots": "many"}, "slots = 'many': must be an integer of at least 3"),
        ({"slots": 32.5}, r"slots = 32\.5: must be an integer of at least 3"),
        ({"width": 0}, "width = 0: must be an integer of at least 1"),
        ({"read_heads": 0}, "read_heads = 0: must be an integer of at least 1"),
        ({"write_heads": -1}, "write_heads = -1: must be an integer of at least 1"),
        ({"hidden_size": 0}, "hidden_size = 0: must be an integer of at least 1"),
        ({"hidden_size": 2.5}, r"hidden_size = 2\.5: must be an integer of at least 1"),
        ({"read_heads": True}, "read_heads = True: must be an integer of at least 1"),
        ({"write_heads": None}, "write_heads = None: must be an integer of at least 1"),
        ({"shift_range": -1}, "shift_range = -1: must be an integer of at least 0"),
        (
            {"shift_range": 0, "init": "tape"},
            r"shift_range = 0: must be an integer of at least 1 \(with init = 'tape'\)",
        ),
        ({"init": "content"}, "memory_init = 'constant': must be learned, positional or random with init = 'content'"),
        ({"shift_range": "1"}, "shift_range = '1': must be an integer of at least 0"),
        ({"tape_logit": 0}, "tape_logit = 0: must be a number above 0"),
        ({"start_scale": -1.0}, r"start_scale = -1\.0: must be a number above 0"),
        ({"clip": 0.0}, "clip = 0.0: must be a number above 0"),
        ({"clip": "a"}, "clip = 'a': must be a number above 0"),
        ({"clip": True}, "clip = True: must be a number above 0"),
        ({"clip": float("nan")}, "clip = nan: must be a number above 0"),
        ({"learned_start": "yes"}, "learned_start = 'yes': must be true or false"),
        ({"learned_start": 1}, "learned_start = 1: must be true or false"),
        ({"controller": None}, "controller = None: must be one of lstm, gru, feedforward"),
        ({"controller": "lstn"}, r"controller = 'lstn': must be one of lstm, gru, feedforward. Did you mean lstm\?"),
        ({"memory_init": "const"}, r"memory_init = 'const'.*Did you mean constant\?"),
        ({"backend": "fast"}, "backend = 'fast': must be one of auto, eager, compile, fused"),
        ({"init": "tap"}, r"init = 'tap': must be one of plain, content, tape, mixed. Did you mean tape\?"),
    ],
)
def test_impossible_options_name_key_value_and_what_is_valid(options, message):
    with pytest.raises(InputError, match=message):
        Ntm(3, **options)
