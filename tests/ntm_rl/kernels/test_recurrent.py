"""The fused LSTM and GRU against torch's own, run step by step and restarted at each reset."""

import ctypes
import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernel_checks import VALUES, errors
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import make_core

# Core, steps, batch, inputs, units, layers, rate of resets, seed.
SHAPE = st.tuples(
    st.sampled_from(["lstm", "gru"]),
    st.integers(1, 12),
    st.integers(1, 11),
    st.integers(1, 20),
    st.integers(1, 37),
    st.sampled_from([1, 2]),
    st.sampled_from([None, 0.0, 0.1, 0.6]),
    st.integers(0, 999),
)


pytestmark = pytest.mark.usefixtures("kernel")
both = pytest.mark.parametrize("name", ["lstm", "gru"])


def step_by_step(core: Any, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
    """`MemoryCore.forward` by calls of torch's module of one step each."""
    parts = [part.transpose(0, 1) for part in core.unpack(state)]  # [layers, B, H]
    outputs = []
    for t, step in enumerate(inputs):
        if resets is not None:
            parts = [part * ~resets[t].unsqueeze(1) for part in parts]
        last = tuple(part.contiguous() for part in parts)
        output, after = core.network(step.unsqueeze(0), last if len(last) == 2 else last[0])
        parts = list(after) if len(last) == 2 else [after]
        outputs.append(output)
    parts = [part.transpose(0, 1).flatten(1) for part in parts]
    return torch.cat(outputs), torch.cat([torch.ones_like(state[:, :1]), *parts], dim=1)


def build(shape, dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor, Tensor, Tensor | None]:
    """A core, inputs, a state in the middle of an episode (of the first element: at its beginning), and resets."""
    name, steps, batch, size, units, layers, rate, seed = shape
    torch.manual_seed(seed)
    core = make_core(name, size, hidden_size=units, layers=layers).double()
    inputs, state = torch.randn(steps, batch, size).double(), torch.randn(batch, core.state_size).double()
    state[0], state[1:, 0] = 0, 1
    resets = None if rate is None else torch.rand(steps, batch) < rate
    return core.to(dtype), inputs.to(dtype).requires_grad_(), state.to(dtype).requires_grad_(), resets


def values_and_gradients(core: Any, inputs: Tensor, state: Tensor, found: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (each * torch.randn(each.shape, generator=generator, dtype=torch.float64).to(each)).sum() for each in found
    )
    wanted = {"inputs": inputs, "state": state, **dict(core.named_parameters())}
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    return {"outputs": found[0], "after": found[1], **dict(zip(wanted, gradients, strict=True))}


def assert_agrees(shape, dtype: torch.dtype, tolerance: float) -> None:
    core, inputs, state, resets = build(shape)
    expected = values_and_gradients(core, inputs, state, step_by_step(core, inputs, state, resets))
    core, inputs, state, _ = build(shape, dtype)
    found = values_and_gradients(core, inputs, state, core(inputs, state, resets))
    for name, error in errors(found, expected).items():
        assert error < (tolerance if name in VALUES else 20 * tolerance), (name, error)  # as for the NTM's kernel


@settings(max_examples=60, deadline=None)
@given(SHAPE)
def test_values_states_and_gradients_equal_torchs_in_float64(shape):
    assert_agrees(shape, torch.float64, 1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SHAPE)
def test_values_states_and_gradients_equal_torchs_in_float32(shape):
    assert_agrees(shape, torch.float32, 1e-5)


@both
def test_values_and_gradients_agree_at_typical_sizes(name):
    assert_agrees((name, 32, 64, 64, 128, 1, 0.02, 0), torch.float32, 1e-5)


@settings(max_examples=60, deadline=None)
@given(SHAPE)
def test_single_steps_without_gradients_equal_torchs(shape):
    core, inputs, state, resets = build(shape)
    expected, outputs = step_by_step(core, inputs, state, resets), []
    before = state.clone()
    with torch.no_grad():
        for t in range(len(inputs)):
            output, state = core(inputs[t : t + 1], state, None if resets is None else resets[t : t + 1])
            outputs.append(output)
    torch.testing.assert_close((torch.cat(outputs), state), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(before, build(shape)[2])  # a reset does not write into what came in


@both
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_equal_finite_differences(name, layers):
    core, inputs, state, _ = build((name, 4, 3, 2, 3, layers, None, 0))
    resets = torch.tensor([[False, True, False], [False, False, True], [False, False, True], [True, False, False]])

    def run(inputs, state, *_):
        outputs, after = core(inputs, state, resets)
        return outputs, after[:, 1:]

    assert torch.autograd.gradcheck(run, (inputs, state, *core.parameters()))
    assert torch.autograd.gradcheck(lambda inputs, *_: core.outputs(inputs, state), (inputs, *core.parameters()))


@both
def test_second_derivatives_equal_finite_differences(name):
    core, inputs, state, resets = build((name, 3, 2, 2, 3, 1, 0.3, 1))
    assert torch.autograd.gradgradcheck(lambda inputs, state: core(inputs, state, resets), (inputs, state))


@both
def test_non_contiguous_arguments_give_the_same(name):
    core, inputs, state, resets = build((name, 5, 4, 6, 3, 2, 0.4, 0))
    strange = inputs.mT.contiguous().mT, state.t().contiguous().t(), resets.t().contiguous().t()
    assert not any(each.is_contiguous() for each in strange)
    torch.testing.assert_close(core(*strange), core(inputs, state, resets))
    with torch.no_grad():
        steps = [[each[:1], core_state, reset[:1]] for each, core_state, reset in (strange, (inputs, state, resets))]
        torch.testing.assert_close(core(*steps[0]), core(*steps[1]))


@both
def test_an_empty_batch_has_zero_gradients(name):
    core, inputs, state, resets = build((name, 3, 1, 4, 5, 2, 0.4, 0))
    inputs, state = inputs[:, :0], state[:0]
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            for steps in (1, 3):
                outputs, after = core(inputs[:steps], state, resets[:steps, :0])
                assert outputs.shape == (steps, 0, 5) and after.shape == (0, core.state_size)
    (outputs.sum() + after.sum()).backward()
    assert all(not parameter.grad.any() for parameter in core.parameters())


@both
def test_a_non_finite_input_propagates(name):
    core = make_core(name, 2)
    inputs = torch.tensor([[[float("nan"), 0.0], [0.0, 0.0]]])
    outputs, _ = core(inputs, core.initial_state(2))
    with torch.no_grad():
        stepped, _ = core(inputs, core.initial_state(2))
    for each in (outputs, stepped):
        assert each[0, 0].isnan().all() and each[0, 1].isfinite().all()


def calls(core: MemoryCore, inputs: Tensor, state: Tensor, resets: Tensor | None) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        core(inputs, state, resets)
    kernels = {"ntm_rl::recurrent_forward", "ntm_rl::recurrent_step", "aten::lstm", "aten::gru"}
    return {event.key for event in profile.key_averages()} & kernels


@both
def test_a_cpu_runs_the_kernel_and_unsupported_cases_run_the_torch_module(monkeypatch, name):
    core, inputs, state, resets = build((name, 4, 3, 2, 3, 2, 0.3, 0))
    assert resets[1:].any()
    assert calls(core, inputs, state, resets) == {"ntm_rl::recurrent_forward"}
    with torch.no_grad():
        assert calls(core, inputs[:1], state, resets[:1]) == {"ntm_rl::recurrent_step"}
    expected = core(inputs, state, resets)
    monkeypatch.setattr("ntm_rl.kernels.fused.load_kernels", lambda: False)
    assert calls(core, inputs, state, resets) == {f"aten::{name}"}
    torch.testing.assert_close(core(inputs, state, resets), expected)


@both
def test_a_core_inside_torch_compile_gives_the_same(name):
    core, inputs, state, _ = build((name, 3, 2, 2, 3, 1, None, 0))
    compiled = torch.compile(lambda inputs, state: core(inputs, state), backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs, state), core(inputs, state))


@pytest.mark.parametrize("layers", [1, 2])
@settings(max_examples=20, deadline=None)
@given(SHAPE)
def test_without_the_kernel_values_and_gradients_are_the_same(layers, shape):
    shape = (*shape[:5], layers, *shape[6:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ntm_rl.kernels.fused.load_kernels", lambda: False)
        assert_agrees(shape, torch.float64, 1e-12)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_large_weights_is_freed_with_the_core():
    def held() -> int:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def train_once(units: int) -> None:
        core = make_core("lstm", 16, hidden_size=units)
        core(torch.randn(16, 2, 16), core.initial_state(2))[0].sum().backward()

    train_once(8)
    before = held()
    train_once(1500)  # 36 MB of weights
    assert held() - before < 20e6
