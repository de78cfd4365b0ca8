"""Properties of every registered core; LSTM and GRU also against PyTorch's."""

import itertools
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import core_names, core_options, make_core

CORES = [(name, {"hidden_size": 6}) for name in core_names()] + [
    ("ntm", {"hidden_size": 6, "controller": "gru", "read_heads": 2, "shift_range": 2, "init": "tape"}),
    ("ntm", {"hidden_size": 6, "controller": "feedforward", "memory_init": "learned", "learned_start": True}),
    ("ntm", {"hidden_size": 6, "backend": "eager"}),
    ("ntm", {"hidden_size": 6, "memory_init": "random", "write_heads": 2, "shift_range": 0}),
    ("lstm", {"hidden_size": 6, "layers": 2}),
    ("gru", {"hidden_size": 6, "layers": 2}),
    ("elman", {"hidden_size": 6, "layers": 2}),
    ("gated_delta", {"hidden_size": 6, "layers": 2, "convolution": 1}),
    ("gated_delta", {"hidden_size": 6, "heads": 1, "width": 1, "convolution": 2}),
    ("gtrxl", {"hidden_size": 6, "window": 2, "layers": 3}),
    ("gtrxl", {"hidden_size": 6, "window": 1, "heads": 1, "width": 1, "layers": 1}),
    ("feedforward", {"hidden_size": 6, "layers": 2}),
    ("frame_stack", {"hidden_size": 6, "frames": 1}),
    ("frame_stack", {"hidden_size": 6, "frames": 7, "layers": 2}),
    ("dnc", {"hidden_size": 6, "read_heads": 2, "mask_content": True, "wipe_freed": True, "sharpen_links": True}),
    ("dnc", {"hidden_size": 6, "backend": "eager"}),
    ("sam", {"hidden_size": 6, "slots": 7, "heads": 2, "slots_read": 3}),
    ("mann", {"hidden_size": 6, "heads": 3}),
]
# For finite differences, whose cost is that of the state.
SMALL = {
    "ntm": {"slots": 5, "width": 2},
    "ntm_block": {"slots": 5, "width": 2, "read_heads": 3},
    "dnc": {"slots": 5, "width": 2},
    "sam": {"slots": 5, "width": 2, "slots_read": 5},  # all of them: which slots are read has no gradient
    "mann": {"slots": 5, "width": 2},
    "gated_delta": {"heads": 2, "width": 2},
    "gtrxl": {"heads": 2, "width": 2, "window": 2, "layers": 2},
}
every_core = pytest.mark.parametrize(("name", "options"), CORES, ids=str)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 5), st.floats(0, 0.6), st.integers(0, 999))


def build(name: str, options: dict) -> MemoryCore:
    torch.manual_seed(0)
    return make_core(name, 3, **options).double()


def sequence(core: MemoryCore, shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, a state somewhere in the middle of an episode, and resets."""
    steps, batch, rate, seed = shape
    torch.manual_seed(seed)
    inputs = torch.randn(steps, batch, 3, dtype=torch.float64)
    with torch.no_grad():
        _, state = core(torch.randn(2, batch, 3, dtype=torch.float64), core.initial_state(batch))
    return inputs, state, torch.rand(steps, batch) < rate


@every_core
@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_a_sequence_equals_its_steps_one_by_one(name, options, shape):
    core = build(name, options)
    inputs, state, resets = sequence(core, shape)
    outputs, after = core(inputs, state, resets)
    torch.testing.assert_close(core.outputs(inputs, state, resets), outputs)
    for step in range(len(inputs)):
        output, state = core(inputs[step : step + 1], state, resets[step : step + 1])
        torch.testing.assert_close(output[0], outputs[step])
    torch.testing.assert_close(state, after)


@every_core
@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_a_step_without_gradients_equals_one_with(name, options, shape):
    core = build(name, options)
    inputs, state, resets = sequence(core, shape)
    expected = core(inputs[:1], state, resets[:1])
    with torch.no_grad():
        found = core(inputs[:1], state, resets[:1])
    torch.testing.assert_close(found, expected, check_stride=False)


@every_core
@settings(max_examples=15, deadline=None)
@given(SHAPES)
def test_batch_elements_do_not_mix(name, options, shape):
    core = build(name, options)
    inputs, state, resets = sequence(core, shape)
    order = torch.randperm(len(state))
    outputs, after = core(inputs, state, resets)
    permuted, after_permuted = core(inputs[:, order], state[order], resets[:, order])
    torch.testing.assert_close(permuted, outputs[:, order])
    torch.testing.assert_close(after_permuted, after[order])
    alone, _ = core(inputs[:, :1], state[:1], resets[:, :1])
    torch.testing.assert_close(alone, outputs[:, :1])


@every_core
def test_a_reset_equals_a_fresh_start(name, options):
    core = build(name, options)
    inputs, state, _ = sequence(core, (5, 2, 0.0, 1))
    resets = torch.zeros(5, 2, dtype=torch.bool)
    resets[2] = True
    outputs, after = core(inputs, state, resets)
    fresh, fresh_after = core(inputs[2:], core.initial_state(2))
    torch.testing.assert_close(outputs[2:], fresh)
    torch.testing.assert_close(after, fresh_after)


@every_core
def test_the_flat_state_has_the_stated_size_starts_all_zero_and_is_alive_after_a_step(name, options):
    core = build(name, options)
    state = core.initial_state(2)
    assert torch.equal(state, torch.zeros(2, core.state_size, dtype=torch.float64))
    outputs, after = core(torch.randn(1, 2, 3, dtype=torch.float64), state)
    assert outputs.shape == (1, 2, core.output_size) and after.shape == (2, core.state_size)
    assert torch.equal(after[:, 0], torch.ones(2, dtype=torch.float64))
    sizes = sum(part[0].numel() for part in core.unpack(after))
    assert sizes == core.state_size - 1


@every_core
@pytest.mark.parametrize("steps", [1, 3])
def test_a_batch_of_no_sequences_runs_forward_and_backward(name, options, steps):
    core = build(name, options)
    inputs, state = torch.zeros(steps, 0, 3, dtype=torch.float64, requires_grad=True), core.initial_state(0)
    outputs, after = core(inputs, state, torch.zeros(steps, 0, dtype=torch.bool))
    assert outputs.shape == (steps, 0, core.output_size) and after.shape == state.shape
    outputs.sum().backward()
    assert all(not weight.grad.any() for weight in core.parameters() if weight.grad is not None)
    with torch.no_grad():
        assert core(inputs, state)[0].shape == outputs.shape


@every_core
def test_an_all_zero_state_equals_the_initial_state_of_unpack(name, options):
    core = build(name, options)
    inputs, state, _ = sequence(core, (3, 2, 0.0, 1))
    parts = [part.flatten(1) for part in core.unpack(core.initial_state(2))]
    alive = torch.ones(2, 1, dtype=torch.float64)
    expected = core(inputs, torch.cat([alive, *parts], dim=1))
    torch.testing.assert_close(core(inputs, torch.zeros_like(state)), expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_unpacked_states_of_recurrent_cores_have_a_part_for_each_layer(layers):
    for kind, has_cell in [("lstm", True), ("gru", False)]:
        core = build(kind, {"hidden_size": 6, "layers": layers})
        parts = core.unpack(core(torch.ones(1, 2, 3, dtype=torch.float64), core.initial_state(2))[1])
        assert [part.shape for part in parts] == (2 if has_cell else 1) * [(2, layers, 6)]


@every_core
def test_huge_inputs_leave_outputs_states_and_gradients_finite(name, options):
    core = build(name, options).float()
    inputs = (1e4 * torch.randn(250, 2, 3)).requires_grad_()
    outputs, state = core(inputs, core.initial_state(2), torch.rand(250, 2) < 0.01)
    outputs.square().mean().backward()
    for tensor in (outputs, state, inputs.grad, *(each.grad for each in core.parameters() if each.grad is not None)):
        assert torch.isfinite(tensor).all()


@every_core
def test_gradients_of_long_sequences_are_finite_with_resets_and_under_autocast(name, options):
    core = build(name, options).float()
    inputs = torch.randn(300, 2, 3, requires_grad=True)
    resets = torch.rand(300, 2) < 0.01
    with torch.autocast("cpu", torch.bfloat16):
        outputs, state = core(inputs, core.initial_state(2), resets)
    assert outputs.dtype == state.dtype == torch.float32  # the parameters' precision
    torch.testing.assert_close(outputs, core(inputs, core.initial_state(2), resets)[0])
    outputs[-1].sum().backward()
    for tensor in (outputs, state, inputs.grad, *(each.grad for each in core.parameters() if each.grad is not None)):
        assert torch.isfinite(tensor).all()


@every_core
def test_gradients_equal_finite_differences_with_resets_inside(name, options):
    core = build(name, {**options, "hidden_size": 2, **SMALL.get(name, {})})
    inputs, state, _ = sequence(core, (4, 2, 0.0, 2))
    resets = torch.tensor([[False, False], [True, False], [False, False], [False, True]])

    def run(inputs, state):
        outputs, after = core(inputs, state, resets)
        return outputs, after[:, 1:]

    assert torch.autograd.gradcheck(run, (inputs.requires_grad_(), state.requires_grad_()))


@every_core
def test_saved_weights_give_the_same_outputs(name, options):
    core = build(name, options)
    torch.manual_seed(7)
    other = make_core(name, 3, **options).double()
    other.load_state_dict(core.state_dict())
    inputs, state, resets = sequence(core, (4, 2, 0.3, 3))
    assert torch.equal(core(inputs, state, resets)[0], other(inputs, state, resets)[0])


def cut_by_hand(core, inputs, state, resets) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last state of torch's module run over the pieces of each sequence, one by one."""
    columns, states = [], []
    for b in range(len(state)):
        hidden, *cell = (part[b].unsqueeze(1) for part in core.unpack(state))
        begins = [t for t in range(len(inputs)) if t == 0 or resets[t, b]]
        pieces = []
        for begin, end in itertools.pairwise([*begins, len(inputs)]):
            carried = (hidden, *cell) if cell else hidden
            carried = None if resets[begin, b] else carried  # torch begins with zeros
            output, carried = core.network(inputs[begin:end, b : b + 1], carried)
            pieces.append(output)
        columns.append(torch.cat(pieces))
        last = carried if cell else (carried,)
        states.append(torch.cat([torch.ones(1, dtype=state.dtype), *(part.flatten() for part in last)]))
    return torch.cat(columns, dim=1), torch.stack(states)


@contextmanager
def values_are_readable(readable: bool):
    """Runs cores as if on a device whose values the host can, or cannot, read without a synchronisation."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("devices", "recurrent", "sam_sequence", "lstm_memory"):  # the others never read values
            patch.setattr(f"ntm_rl.cores.{module}.can_read_values", lambda device: readable)
        yield


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
@settings(max_examples=12, deadline=None)
@given(st.tuples(st.integers(1, 40), st.integers(1, 12), st.floats(0, 0.6), st.integers(0, 999)))
def test_recurrent_cores_and_their_gradients_equal_torchs_modules_on_pieces_cut_by_hand(kind, layers, readable, shape):
    core = build(kind, {"hidden_size": 4, "layers": layers})
    inputs, state, resets = sequence(core, shape)
    wanted = [inputs.requires_grad_(), state.requires_grad_(), *core.parameters()]
    expected = cut_by_hand(core, inputs, state, resets)
    with values_are_readable(readable):
        found = core(inputs, state, resets)
        torch.testing.assert_close(core.outputs(inputs, state, resets), found[0])
    torch.testing.assert_close(found, expected)
    weights = [torch.randn_like(each) for each in expected]
    gradients = [torch.autograd.grad(each, wanted, weights, materialize_grads=True) for each in (found, expected)]
    torch.testing.assert_close(*gradients)


@every_core
@pytest.mark.parametrize("way", ["filled", "used before", "assigned"])
def test_a_core_built_on_meta_is_complete_once_its_weights_are_loaded(name, options, way):
    core = build(name, options)
    with torch.device("meta"):
        other = make_core(name, 3, **options).double()
    if way != "assigned":
        other.to_empty(device="cpu")
        for tensor in itertools.chain(other.parameters(), other.buffers()):
            tensor.data.fill_(torch.nan)  # uninitialised memory may hold anything
    if way == "used before":
        other(torch.zeros(1, 1, 3, dtype=torch.float64), other.initial_state(1))
    other.load_state_dict(core.state_dict(), assign=way == "assigned")
    inputs, state, resets = sequence(core, (4, 2, 0.3, 3))
    assert resets.any()
    assert torch.equal(core(inputs, state, resets)[0], other(inputs, state, resets)[0])
    torch.testing.assert_close(core.unpack(core.initial_state(2)), other.unpack(other.initial_state(2)), rtol=0, atol=0)


@every_core
def test_a_core_first_used_in_inference_mode_can_be_trained(name, options):
    core = build(name, options)
    inputs, state, resets = sequence(core, (4, 2, 0.3, 3))
    fresh = build(name, options)
    with torch.inference_mode():
        fresh(inputs, fresh.initial_state(2))
    for each in (core, fresh):
        each(inputs, state, resets)[0].sum().backward()
    for expected, found in zip(core.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@every_core
def test_a_core_changes_its_precision_with_inputs_and_states(name, options):
    core = build(name, options)
    inputs, state, resets = sequence(core, (3, 2, 0.5, 4))
    expected = core(inputs, state, resets)
    core.float()
    found = core(inputs, state, resets)
    assert [each.dtype for each in (*found, core.initial_state(1))] == 3 * [torch.float32]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, check_dtype=False)


@every_core
def test_autocast_changes_nothing(name, options):
    core = build(name, options).float()
    inputs, resets = torch.randn(4, 2, 3), torch.tensor([[False, False], [True, False], [False, True], [False, False]])
    state = core.initial_state(2)
    expected = core(inputs, state, resets)
    with torch.autocast("cpu", torch.bfloat16):
        found = core(inputs, state, resets)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


class NoSynchronisation(TorchDispatchMode):
    """Fails on operators that need a host-device synchronisation on a GPU."""

    SYNCHRONISING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.SYNCHRONISING, func
        return func(*args, **(kwargs or {}))


@every_core
def test_without_readable_values_no_synchronisation_happens_and_results_are_the_same(name, options):
    core = build(name, {**options, "backend": "eager"} if "backend" in core_options(name) else options)
    inputs, state, resets = sequence(core, (6, 4, 0.4, 5))
    wanted = [inputs.requires_grad_(), state.requires_grad_(), *core.parameters()]
    assert resets[1:].any()
    expected = core(inputs, state, resets)
    with values_are_readable(False), NoSynchronisation():
        found = core(inputs, state, resets)
        gradients = torch.autograd.grad([each.sum() for each in found], wanted, allow_unused=True)
        with torch.no_grad():
            core(inputs[:1], state, resets[:1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        gradients, torch.autograd.grad([each.sum() for each in expected], wanted, allow_unused=True)
    )
    with NoSynchronisation(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        bool(resets.any())


@every_core
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("with_resets", [True, False])
@pytest.mark.parametrize("with_gradients", [True, False])
def test_a_core_runs_on_the_meta_device_where_there_are_no_values(name, options, steps, with_resets, with_gradients):
    core = build(name, options).to("meta")
    inputs = torch.zeros(steps, 2, 3, device="meta")
    resets = torch.zeros(steps, 2, dtype=torch.bool, device="meta") if with_resets else None
    with torch.set_grad_enabled(with_gradients):
        outputs, state = core(inputs, core.initial_state(2), resets)
    assert outputs.is_meta and outputs.shape == (steps, 2, core.output_size)
    assert state.is_meta and state.shape == (2, core.state_size)
    assert outputs.requires_grad == with_gradients
