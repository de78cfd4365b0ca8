"""Single steps without gradients in kernels against the same steps as plain operators, their specification."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError
from ntm_rl.kernels.fused import lay_out

GATED_DELTA = st.fixed_dictionaries(
    {"hidden_size": st.integers(4, 33), "heads": st.integers(1, 3), "width": st.sampled_from([2, 5, 16, 20])}
    | {"layers": st.integers(1, 3), "convolution": st.integers(1, 4)}
)
GTRXL = st.fixed_dictionaries(
    {"hidden_size": st.integers(4, 33), "heads": st.integers(1, 3), "width": st.sampled_from([2, 5, 16, 20])}
    | {"layers": st.integers(1, 3), "window": st.integers(1, 6)}
)
CORES = st.one_of(*(st.tuples(st.just(name), of) for name, of in (("gated_delta", GATED_DELTA), ("gtrxl", GTRXL))))
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5}
every = pytest.mark.parametrize("name", ["gated_delta", "gtrxl", "sam"])

pytestmark = pytest.mark.usefixtures("kernel")


def step(core, inputs, state, resets):
    with torch.no_grad():
        return core(inputs, state, resets)


@settings(max_examples=40, deadline=None)
@given(
    CORES, st.integers(1, 11), st.sampled_from([None, 0.0, 0.3]), st.sampled_from(list(TOLERANCES)), st.integers(0, 99)
)
def test_steps_equal_plain_operators(core, batch, rate, dtype, seed):
    torch.manual_seed(seed)
    made = make_core(core[0], 5, **core[1]).to(dtype)
    state = expected_state = made.initial_state(batch)
    for _ in range(8):
        inputs = torch.randn(1, batch, 5, dtype=dtype)
        resets = None if rate is None else torch.rand(1, batch) < rate
        before = state.clone()
        outputs, after = step(made, inputs, state, resets)
        assert torch.equal(before, state)  # a reset does not write into what came in
        expected, expected_state = (each.detach() for each in made(inputs, expected_state, resets))
        torch.testing.assert_close((outputs, after), (expected, expected_state), rtol=0, atol=TOLERANCES[dtype])
        state = after


SAM = st.fixed_dictionaries(
    {"slots": st.integers(3, 40), "width": st.sampled_from([1, 5, 16]), "heads": st.integers(1, 3)}
    | {"slots_read": st.integers(1, 3), "hidden_size": st.integers(4, 33)}
)


@settings(max_examples=40, deadline=None)
@given(SAM, st.integers(1, 11), st.sampled_from([None, 0.0, 0.3]), st.integers(0, 99))
def test_steps_of_a_sparse_memory_equal_plain_operators(options, batch, rate, seed):
    torch.manual_seed(seed)  # float64, as in float32 equal contents have scores that differ by rounding
    core = make_core("sam", 5, **options).double()
    state = core.initial_state(batch)
    for _ in range(12):
        inputs = torch.randn(1, batch, 5, dtype=torch.float64)
        resets = None if rate is None else torch.rand(1, batch) < rate
        found = step(core, inputs, state, resets)
        expected = tuple(each.detach() for each in core(inputs, state, resets))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        state = expected[1]


# Norms of small reads amplify the gated delta core's rounding errors: plain operators are as far from float64.
PREPARED = {"gated_delta": 1e-5, "gtrxl": 1e-6, "lstm": 1e-6, "gru": 1e-6, "ntm": 1e-6, "ntm_block": 1e-6}


@pytest.mark.parametrize("name", PREPARED)
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_prepared_steps_equal_plain_operators_also_after_changed_weights(name, batch):
    torch.manual_seed(0)
    core = make_core(name, 5, hidden_size=33)
    state = core.initial_state(batch)
    for _ in range(2):
        prepared = core.make_step()
        for _ in range(6):
            inputs, resets = torch.randn(1, batch, 5), torch.rand(1, batch) < 0.3
            with torch.no_grad():
                found = prepared(inputs, state, resets)
            expected = tuple(each.detach() for each in core(inputs, state, resets))
            torch.testing.assert_close(found, expected, rtol=0, atol=PREPARED[name])
            state = expected[1]
        with torch.no_grad():
            for weight in core.parameters():
                weight.add_(0.1 * torch.randn_like(weight))


@given(CORES, st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_prepared_steps_of_any_size_equal_those_of_the_core(core, batch, seed):
    torch.manual_seed(seed)
    made = make_core(core[0], 5, **core[1])
    state, prepared = made.initial_state(batch), made.make_step()
    for _ in range(4):
        inputs, resets = torch.randn(1, batch, 5), torch.rand(1, batch) < 0.3
        with torch.no_grad():
            found = prepared(inputs, state, resets)
        expected = step(made, inputs, state, resets)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[torch.float32])
        state = expected[1]


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_steps_in_float64_equal_those_of_the_core(name):
    core = make_core(name, 4).double()
    inputs, state = torch.randn(1, 3, 4, dtype=torch.float64), core.initial_state(3)
    with torch.no_grad():
        torch.testing.assert_close(core.make_step()(inputs, state, None), core(inputs, state))


@pytest.mark.parametrize("name", PREPARED)
def test_steps_prepared_under_autocast_keep_full_precision(name):
    core = make_core(name, 4)
    inputs, state = torch.randn(1, 3, 4), core.initial_state(3)
    with torch.no_grad():
        expected = core(inputs, state)
        with torch.autocast("cpu", torch.bfloat16):
            found = core.make_step()(inputs, state, None)
    torch.testing.assert_close(found, expected)


@every
def test_non_contiguous_arguments_give_the_same(name):
    core = make_core(name, 4)
    inputs, state, resets = torch.randn(1, 4, 3).mT, torch.zeros(core.state_size, 3).T, torch.zeros(1, 3).bool()
    torch.testing.assert_close(step(core, inputs, state, resets), core(inputs, state, resets))


@every
def test_an_empty_batch_has_empty_results(name):
    core = make_core(name, 4)
    outputs, after = step(core, torch.zeros(1, 0, 4), core.initial_state(0), None)
    assert outputs.shape == (1, 0, core.output_size) and after.shape == (0, core.state_size)


@every
def test_a_non_finite_input_ends_with_its_episode(name):
    core = make_core(name, 2)
    outputs, state = step(core, torch.tensor([[[float("nan"), 0.0], [0.0, 0.0]]]), core.initial_state(2), None)
    assert outputs[0, 0].isnan().all() and outputs[0, 1].isfinite().all()
    outputs, state = step(core, torch.zeros(1, 2, 2), state, torch.tensor([[True, False]]))
    assert outputs.isfinite().all() and state.isfinite().all()


@every
def test_a_weight_of_another_shape_is_an_error(name):
    core = make_core(name, 4)
    for weight, value in core.named_parameters():
        wrong = {weight: torch.zeros(value.shape[0] + 1, *value.shape[1:])}
        with torch.no_grad(), pytest.raises((ValueError, RuntimeError, InputError)):
            torch.func.functional_call(core, wrong, (torch.zeros(1, 2, 4), core.initial_state(2), None))


@every
def test_without_the_kernel_a_step_gives_the_same(monkeypatch, name):
    core, inputs = make_core(name, 4), torch.randn(1, 2, 4)
    expected = step(core, inputs, core.initial_state(2), None)
    monkeypatch.setattr("ntm_rl.kernels.fused.load_kernels", lambda: False)
    torch.testing.assert_close(step(core, inputs, core.initial_state(2), None), expected)


def test_adding_reads_of_other_shapes_is_an_error():
    weight, skip = torch.randn(6, 4), torch.randn(6, 3)
    right = {"outputs": torch.randn(1, 2, 10), "weight": weight, "inputs": torch.randn(1, 2, 3), "skip": skip}
    right |= {"laid_out": lay_out([weight, skip]), "width": 2, "epsilon": 1e-4}
    run = torch.ops.ntm_rl.add_reads.default
    assert run(*right.values()).shape == (1, 2, 6)
    others = {"outputs": torch.randn(1, 2, 9), "inputs": torch.randn(1, 3, 3), "skip": torch.randn(6, 4), "width": 3}
    for name, other in (others | {"laid_out": torch.randn(5)}).items():
        with pytest.raises(ValueError):
            run(*(right | {name: other}).values())
