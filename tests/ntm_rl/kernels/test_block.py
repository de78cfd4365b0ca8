"""The fused block of an NTM against the eager one, its specification."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_checks import KernelCheck, values_and_gradients_of_an_empty_batch
from ntm_rl.cores.ntm_block import NtmBlock

OPTIONS = st.fixed_dictionaries(
    {
        "slots": st.sampled_from([3, 5, 17]),
        "width": st.sampled_from([2, 3, 16, 21]),
        "read_heads": st.integers(2, 5),
        "write_heads": st.integers(1, 3),
        "hidden_size": st.integers(4, 19),  # a norm of few features has next to no gradient
        "convolution": st.integers(1, 5),
        "memory_init": st.sampled_from(["constant", "learned"]),
        "init": st.sampled_from(["plain", "tape", "mixed"]),
        "tape_logit": st.just(1.0),  # sharper heads lose digits of gradients
        "start_scale": st.just(1.0),
    }
)
SHAPE = st.tuples(st.integers(1, 7), st.integers(1, 5), st.sampled_from([None, 0.0, 0.3]), st.integers(0, 999))
SMALL = {"hidden_size": 4, "slots": 4, "width": 3, "read_heads": 2, "convolution": 3, "memory_init": "learned"}

pytestmark = pytest.mark.usefixtures("kernel")


def run(core: NtmBlock, shape) -> dict[str, torch.Tensor]:
    """Values and all gradients of a sequence that starts in the middle of an episode, except for one element."""
    steps, batch, rate, seed = shape
    dtype = core.kernel.dtype
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(dtype)

    state = torch.rand(batch, core.state_size, generator=generator).to(dtype)
    state[0] = 0  # not alive
    state.requires_grad_()
    inputs = draw(steps, batch, 4).requires_grad_()
    resets = None if rate is None else torch.rand(steps, batch, generator=generator) < rate
    outputs, after = core(inputs, state, resets)
    loss = (outputs * draw(*outputs.shape)).sum() + (after[:, 1:] * draw(*after.shape)[:, 1:]).sum()
    loss.backward()
    with torch.no_grad():
        without_gradients, last = core(inputs, state, resets)
    torch.testing.assert_close((without_gradients, last), (outputs, after))
    found = {"outputs": outputs, "after": after, "d_inputs": inputs.grad, "d_state": state.grad}
    return found | {name: parameter.grad for name, parameter in core.named_parameters()}


CHECK = KernelCheck(NtmBlock, run)


@settings(max_examples=15, deadline=None)
@given(OPTIONS, SHAPE)
def test_values_and_gradients_equal_the_eager_ones_in_float64(options, shape):
    CHECK.assert_agree(options, shape, torch.float64, 1e-10, 1e-8)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(OPTIONS, SHAPE)
def test_values_and_gradients_equal_the_eager_ones_in_float32(options, shape):
    CHECK.assert_agree(options, shape, torch.float32, 1e-5, 1e-3)


def test_values_and_gradients_agree_at_the_default_sizes():
    CHECK.assert_agree({"tape_logit": 2.0}, (40, 9, 0.05, 3), torch.float32, 1e-5, 1e-3)


def test_gradients_and_second_derivatives_equal_finite_differences():
    torch.manual_seed(0)
    core = NtmBlock(2, backend="fused", tape_logit=1.0, **SMALL).double()
    inputs = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    state = torch.rand(2, core.state_size, dtype=torch.float64, requires_grad=True)
    resets = torch.tensor([[False, False], [True, False], [False, False], [False, True]])

    def run_core(inputs, state, *_):
        outputs, after = core(inputs, state, resets)
        return outputs, after[:, 1:]

    assert torch.autograd.gradcheck(run_core, (inputs, state, *core.parameters()), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda inputs: run_core(inputs, state)[0], (inputs,), atol=1e-4, fast_mode=True)


def test_single_steps_equal_the_sequence():
    torch.manual_seed(0)
    core = NtmBlock(4, backend="fused")
    inputs, resets, state = torch.randn(6, 3, 4), torch.rand(6, 3) < 0.3, core.initial_state(3)
    with torch.no_grad():
        expected, outputs = core(inputs, state, resets), []
        for step, reset in zip(inputs.split(1), resets.split(1), strict=True):
            output, state = core(step, state, reset)
            outputs.append(output)
    torch.testing.assert_close((torch.cat(outputs), state), expected)


def test_results_do_not_depend_on_the_number_of_threads_and_repeat():
    torch.manual_seed(0)
    core, shape = NtmBlock(4, backend="fused"), (30, 11, 0.1, 5)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 2):
        core.zero_grad()
        torch.set_num_threads(threads)
        found.append({name: value.detach().clone() for name, value in run(core, shape).items()})
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def test_non_contiguous_arguments_give_the_same():
    core = NtmBlock(4, backend="fused", **SMALL)
    inputs, state = torch.randn(3, 2, 4).mT.contiguous().mT, torch.rand(core.state_size, 3).T[:2]
    resets = torch.tensor([[False, True, True], [False, False, True]]).T
    expected = core(inputs.contiguous(), state.contiguous(), resets.contiguous())
    torch.testing.assert_close(core(inputs, state, resets), expected)


def test_an_empty_batch_equals_the_eager_core():
    eager, fused = (NtmBlock(4, backend=backend, **SMALL) for backend in ("eager", "fused"))
    fused.load_state_dict(eager.state_dict())
    torch.testing.assert_close(*map(values_and_gradients_of_an_empty_batch, (eager, fused)))


def test_a_non_finite_input_stays_in_its_episode_and_sequence():
    core = NtmBlock(2, backend="fused", **SMALL)
    inputs, resets = torch.zeros(3, 2, 2), torch.tensor([[False, False], [False, False], [True, False]])
    inputs[0, 0] = torch.nan
    outputs, _ = core(inputs, core.initial_state(2), resets)
    assert outputs[:2, 0].isnan().all() and outputs[2, 0].isfinite().all() and outputs[:, 1].isfinite().all()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # inside torch.compile
def test_a_core_inside_torch_compile_gives_the_same():
    torch.manual_seed(0)
    core = NtmBlock(3, **SMALL)
    inputs, state = torch.randn(2, 2, 3), core.initial_state(2)
    compiled = torch.compile(lambda inputs, state: core(inputs, state), backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs, state), core(inputs, state))
