"""The fused kernel against the eager DNC, its specification."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernel_checks import KernelCheck, values_and_gradients_of_an_empty_batch
from ntm_rl.cores.dnc import Dnc, DncState
from ntm_rl.errors import InputError

FIXES = {"mask_content": True, "wipe_freed": True, "sharpen_links": True}
OPTIONS = st.fixed_dictionaries(
    {
        "slots": st.sampled_from([1, 2, 5, 8, 15, 16, 17, 33]),
        "width": st.sampled_from([2, 3, 16, 21]),  # of width 1 a cosine's gradient is nothing but rounding
        "read_heads": st.integers(1, 3),
        "hidden_size": st.integers(1, 9),
        **{name: st.booleans() for name in FIXES},
        "clip": st.sampled_from([0.3, 20.0]),
    }
)
# Steps, batch, rate of resets, seed.
SHAPE = st.tuples(st.integers(1, 6), st.integers(1, 5), st.sampled_from([None, 0.0, 0.2, 0.5]), st.integers(0, 999))


pytestmark = pytest.mark.usefixtures("kernel")


def simplex(*shape: int) -> Tensor:
    return torch.softmax(2 * torch.randn(*shape, dtype=torch.float64), dim=-1)


def middle_of_an_episode(core: Dnc, batch: int) -> Tensor:
    """A state `[batch, S]` as in the middle of an episode; the first element's is the initial one."""
    slots, heads, width, size = core.slots, core.read_heads, core.width, core.hidden_size
    state = core.layout.pack(
        DncState(
            memory=torch.randn(batch, slots, width, dtype=torch.float64),
            usage=torch.rand(batch, slots, dtype=torch.float64),
            links=torch.rand(batch, slots, slots, dtype=torch.float64) / slots,
            precedence=0.9 * simplex(batch, slots),
            write_weighting=0.9 * simplex(batch, slots),
            read_weightings=0.9 * simplex(batch, heads, slots),
            reads=torch.randn(batch, heads, width, dtype=torch.float64),
            hidden=torch.rand(batch, size, dtype=torch.float64),
            cell=torch.randn(batch, size, dtype=torch.float64),
        )
    )
    state[0] = 0
    return state


def run(core: Dnc, shape) -> dict[str, Tensor]:
    """Values and all gradients of a sequence."""
    steps, batch, rate, seed = shape
    dtype = core.interface_layer.weight.dtype
    torch.manual_seed(seed)
    inputs = torch.randn(steps, batch, core.input_size, dtype=torch.float64).to(dtype).requires_grad_()
    state = middle_of_an_episode(core, batch).to(dtype).requires_grad_()
    resets = None if rate is None else torch.rand(steps, batch) < rate
    outputs, after = core(inputs, state, resets)
    after = after[:, 1:]  # nothing depends on the alive flag
    loss = sum((each * torch.randn(each.shape, dtype=torch.float64).to(dtype)).sum() for each in (outputs, after))
    loss.backward()
    found = {"outputs": outputs, "after": after, "d_inputs": inputs.grad, "d_state": state.grad}
    return found | {name: parameter.grad for name, parameter in core.named_parameters()}


CHECK = KernelCheck(Dnc, run)
pair = CHECK.pair


@settings(max_examples=60, deadline=None)
@given(OPTIONS, SHAPE)
def test_values_and_gradients_equal_the_eager_ones_in_float64(options, shape):
    CHECK.assert_agree(options, shape, torch.float64, 1e-10, 1e-10)


# Always the same cases: rounding may swap slots that are all but tied in the free list, or cross the edge of a clip.
@settings(max_examples=60, deadline=None, derandomize=True)
@given(OPTIONS, SHAPE)
def test_values_and_gradients_equal_the_eager_ones_in_float32(options, shape):
    CHECK.assert_agree(options, shape, torch.float32, 1e-5, 2e-4)


@pytest.mark.slow
def test_float32_is_as_accurate_as_the_eager_core():
    fused, eager = CHECK.float32_errors(OPTIONS, SHAPE)
    off, eager_off = (sum(error > 1e-5 for error in found) for found in (fused, eager))
    print(f"of {len(fused):,} tensors {off} are more than 1e-5 off, of the eager core's {eager_off}")
    assert off <= eager_off


@pytest.mark.parametrize("options", [{}, {"slots": 100, "width": 20, "hidden_size": 60, "read_heads": 2, **FIXES}])
def test_values_and_gradients_agree_at_typical_sizes(options):
    CHECK.assert_agree(options, (25, 9, 0.05, 3), torch.float32, 1e-5, 2e-4)


@pytest.mark.parametrize("options", [{"read_heads": 2}, {"read_heads": 2, **FIXES}], ids=str)
def test_gradients_equal_finite_differences(options):
    torch.manual_seed(0)
    core = Dnc(2, slots=4, width=2, hidden_size=3, backend="fused", **options).double()
    inputs = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    state = middle_of_an_episode(core, 3)[1:].repeat(2, 1)[:3].requires_grad_()
    resets = torch.tensor([[False, False, False], [True, False, False], [False, False, False], [False, True, False]])

    def run_core(inputs, state, *_):
        outputs, after = core(inputs, state, resets)
        return outputs, after[:, 1:]

    assert torch.autograd.gradcheck(run_core, (inputs, state, *core.parameters()))


@pytest.mark.parametrize("batch", [1, 3, 12])
def test_steps_without_gradients_equal_the_sequence(batch):
    torch.manual_seed(0)
    eager, fused = pair({"slots": 9, "width": 5, "hidden_size": 7, "read_heads": 2, **FIXES}, torch.float64)
    state, inputs = middle_of_an_episode(fused, batch), torch.randn(5, batch, 4, dtype=torch.float64)
    resets = torch.rand(5, batch) < 0.3
    expected = eager(inputs, state, resets)
    with torch.no_grad():
        torch.testing.assert_close(fused(inputs, state, resets), expected)
        for step in range(5):
            output, state = fused(inputs[step : step + 1], state, resets[step : step + 1])
            torch.testing.assert_close(output[0], expected[0][step])
    torch.testing.assert_close(state, expected[1])


def test_a_reset_at_the_first_step_discards_the_state():
    torch.manual_seed(0)
    core = Dnc(3, slots=6, width=4, hidden_size=5, backend="fused").double()
    state = middle_of_an_episode(core, 3).requires_grad_()
    inputs, resets = torch.randn(2, 3, 3, dtype=torch.float64), torch.tensor([[False, True, False], [False] * 3])
    outputs, _ = core(inputs, state, resets)
    torch.testing.assert_close(outputs[:, 1:2], core(inputs[:, 1:2], core.initial_state(1))[0])
    outputs.sum().backward()
    assert not state.grad[1].any() and state.grad[0].any() and state.grad[2].any()


def test_an_empty_batch_equals_the_eager_core():
    torch.testing.assert_close(*map(values_and_gradients_of_an_empty_batch, pair({"hidden_size": 3})))


def test_non_contiguous_arguments_give_the_same():
    torch.manual_seed(0)
    eager, fused = pair({"hidden_size": 3, "slots": 6}, torch.float64)
    inputs = torch.randn(3, 2, 4, dtype=torch.float64).mT.contiguous().mT
    state = middle_of_an_episode(fused, 2).T.contiguous().T
    resets = torch.tensor([[False, True, True], [False, False, True]]).T
    assert not any(tensor.is_contiguous() for tensor in (inputs, state, resets))
    torch.testing.assert_close(fused(inputs, state, resets), eager(inputs, state, resets))


def test_slots_of_the_same_usage_are_allocated_in_the_eager_order():
    torch.manual_seed(0)
    eager, fused = pair({"slots": 40, "hidden_size": 3})
    state = eager.initial_state(2)
    state[:, 0] = 1
    eager.unpack(state).usage[0, ::3] = 0.5  # a view: ties, and groups of them, out of order
    eager.unpack(state).usage[1] = 1 - 1e-8 * torch.rand(40)
    for backend in (eager, fused):
        for parameter in backend.parameters():
            parameter.data.fill_(0.05)
    found, expected = (core.unpack(core(torch.ones(3, 2, 4), state)[1]) for core in (fused, eager))
    torch.testing.assert_close(found.write_weighting, expected.write_weighting)
    torch.testing.assert_close(found.usage, expected.usage)


@pytest.mark.parametrize("options", [{}, FIXES], ids=str)
def test_a_non_finite_input_or_state_propagates_without_a_crash(options):
    core = Dnc(3, slots=20, backend="fused", **options)
    outputs, _ = core(torch.full((2, 1, 3), float("nan")), core.initial_state(1))
    assert torch.isnan(outputs).any()
    outputs, after = core(torch.zeros(2, 1, 3), torch.full((1, core.state_size), float("nan"), requires_grad=True))
    outputs.sum().backward()
    assert torch.isnan(outputs).any() and torch.isnan(core.unpack(after).usage).all()


def test_outputs_equal_those_of_forward():
    torch.manual_seed(0)
    for core in pair({"slots": 5, "hidden_size": 3}):
        inputs, state = torch.randn(3, 2, 4), core.initial_state(2)
        assert torch.equal(core.outputs(inputs, state), core(inputs, state)[0])


def test_without_the_kernel_auto_is_eager_and_fused_is_an_error(monkeypatch):
    torch.manual_seed(0)
    eager, strict = pair({"hidden_size": 3})
    auto = Dnc(4, hidden_size=3)
    auto.load_state_dict(eager.state_dict())
    inputs, state = torch.randn(2, 1, 4), eager.initial_state(1)
    monkeypatch.setattr("ntm_rl.kernels.fused.load_kernels", lambda: False)
    assert torch.equal(auto(inputs, state)[0], eager(inputs, state)[0])
    for run_core in (strict, strict.outputs):
        with pytest.raises(InputError, match="backend = 'fused': the kernel could not be built"):
            run_core(inputs, state)


def test_autocast_changes_nothing():
    core = Dnc(3, backend="fused")
    inputs, state = torch.randn(2, 1, 3), core.initial_state(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = core(inputs, state)
    torch.testing.assert_close(found, core(inputs, state), rtol=0, atol=0)


def test_fused_on_another_device_is_an_error():
    core = Dnc(3, backend="fused").to("meta")
    with pytest.raises(InputError, match="backend = 'fused': runs only on the CPU, not on meta"):
        core(torch.zeros(1, 1, 3, device="meta"), core.initial_state(1))


@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_a_link_that_is_negative_by_rounding_is_sharpened_as_zero(backend):
    core = Dnc(3, slots=4, width=2, hidden_size=3, sharpen_links=True, backend=backend)
    with torch.no_grad():
        _, state = core(torch.randn(3, 1, 3), core.initial_state(1))
    parts = core.unpack(state)
    none, negative = (
        core.layout.pack(parts._replace(links=torch.zeros_like(parts.links) - below * (1 - torch.eye(4))))
        for below in (0.0, 1.2e-7)
    )
    inputs = torch.randn(1, 1, 3, requires_grad=True)
    found, expected = (core(inputs, each)[0] for each in (negative, none))
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sum(), [inputs, *core.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
