"""NaN, infinity and overflow in every core: they affect only their own episode, and a reset clears them."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from ntm_rl import kernels
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import core_names, make_core

CORES = [(name, {"hidden_size": 6}) for name in core_names()] + [
    ("ntm", {"hidden_size": 6, "backend": "eager"}),
    ("ntm", {"hidden_size": 6, "controller": "gru", "write_heads": 2}),
    ("dnc", {"hidden_size": 6, "backend": "eager"}),
    ("dnc", {"hidden_size": 6, "mask_content": True, "wipe_freed": True, "sharpen_links": True}),
    ("lstm", {"hidden_size": 6, "layers": 2}),
    ("sam", {"hidden_size": 6, "slots": 7, "heads": 2, "slots_read": 3}),
    ("gated_delta", {"hidden_size": 6, "layers": 2, "convolution": 1}),
    ("gtrxl", {"hidden_size": 6, "window": 2, "layers": 3}),
]
every_core = pytest.mark.parametrize(("name", "options"), CORES, ids=str)
every_bad_value = pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e20, -3e38], ids=str)


def build(name: str, options: dict) -> MemoryCore:
    torch.manual_seed(0)
    return make_core(name, 3, **options)


@every_core
@every_bad_value
@pytest.mark.parametrize("steps", [1, 4])
def test_a_reset_clears_the_state_and_no_gradient_reaches_it(name, options, bad, steps):
    core = build(name, options)
    inputs = torch.randn(steps, 2, 3, requires_grad=True)
    state = torch.full((2, core.state_size), bad)
    state[:, 0] = 1
    state.requires_grad_()
    resets = torch.zeros(steps, 2, dtype=torch.bool)
    resets[0] = True
    found = core(inputs, state, resets)
    expected = core(inputs, core.initial_state(2))
    torch.testing.assert_close(found, expected)
    wanted = [inputs, *core.parameters()]
    gradients, right = (
        torch.autograd.grad(each[0].square().sum(), wanted, allow_unused=True) for each in (found, expected)
    )
    torch.testing.assert_close(gradients, right)
    (d_state,) = torch.autograd.grad(core(inputs, state, resets)[0].sum(), state, allow_unused=True)
    assert d_state is None or torch.equal(d_state, torch.zeros_like(d_state))
    with torch.no_grad():
        torch.testing.assert_close(core(inputs, state, resets), expected)


@every_core
@every_bad_value
def test_a_reset_inside_a_sequence_clears_earlier_inputs(name, options, bad):
    core = build(name, options)
    inputs = torch.randn(6, 2, 3)
    inputs[1, 0] = bad
    inputs.requires_grad_()
    resets = torch.zeros(6, 2, dtype=torch.bool)
    resets[3, 0] = True
    outputs, after = core(inputs, core.initial_state(2), resets)
    fresh, fresh_after = core(inputs[3:, :1], core.initial_state(1))
    torch.testing.assert_close((outputs[3:, :1], after[:1]), (fresh, fresh_after))
    assert outputs[:, 1].isfinite().all() and after[1].isfinite().all()
    loss = outputs[3:].square().sum() + outputs[:, 1].square().sum()
    (d_inputs,) = torch.autograd.grad(loss, inputs)
    (d_fresh,) = torch.autograd.grad(fresh.square().sum(), inputs)
    torch.testing.assert_close(d_inputs[3:, 0], d_fresh[3:, 0])
    assert d_inputs[:, 1].isfinite().all()


@every_core
def test_no_gradient_of_an_episode_reaches_the_one_before(name, options):
    core = build(name, options)
    inputs, resets = torch.randn(6, 2, 3, requires_grad=True), torch.zeros(6, 2, dtype=torch.bool)
    resets[3] = True
    outputs, _ = core(inputs, core.initial_state(2), resets)
    (gradient,) = torch.autograd.grad(outputs[3:].sum(), inputs)
    assert torch.equal(gradient[:3], torch.zeros(3, 2, 3)) and gradient[3:].abs().sum() > 0


@every_core
@pytest.mark.parametrize("steps", [1, 4])
def test_a_non_finite_input_affects_its_step_and_only_the_gradients_of_its_sequence(name, options, steps):
    core = build(name, options)
    inputs = torch.randn(steps, 2, 3)
    inputs[-1, 0] = torch.nan
    outputs, _ = core(inputs, core.initial_state(2))
    assert outputs[-1, 0].isnan().any() and outputs[:-1].isfinite().all() and outputs[:, 1].isfinite().all()
    gradients = torch.autograd.grad(outputs.sum(), list(core.parameters()), allow_unused=True)
    assert any(gradient is not None and gradient.isnan().any() for gradient in gradients)


@every_core
def test_a_non_finite_state_affects_the_outputs(name, options):
    core = build(name, options)
    if core.state_size == 1:
        pytest.skip("no memory")
    state = torch.full((2, core.state_size), torch.nan)
    state[:, 0] = 1
    for with_gradients in (True, False):
        with torch.set_grad_enabled(with_gradients):
            outputs, _ = core(torch.randn(3, 2, 3), state)
            assert outputs.isnan().any(2).any(0).all()


@every_core
def test_a_non_finite_weight_affects_outputs_and_gradients(name, options):
    core = build(name, options)
    weights = [weight for weight in core.parameters() if weight.requires_grad]
    for weight in weights:
        with torch.no_grad():
            kept = weight.clone()
            weight.view(-1)[0] = torch.nan
        outputs, after = core(torch.randn(3, 2, 3), core.initial_state(2))
        gradients = torch.autograd.grad(outputs.square().sum() + after.sum(), weights, allow_unused=True)
        shows = [each for each in (outputs, after, *gradients) if each is not None and each.isnan().any()]
        assert len(shows) > 1, (weight.shape,)
        with torch.no_grad():
            weight.copy_(kept)


PROBE = """
#include "numerics.h"
using namespace ntm_rl;
#define EACH(name, call) \\
  extern "C" void name##_float(const float* x, float* y, long n) { for (long i = 0; i < n; ++i) y[i] = call; } \\
  extern "C" void name##_double(const double* x, double* y, long n) { for (long i = 0; i < n; ++i) y[i] = call; }
EACH(exp, exp_(x[i])) EACH(log, log_(x[i])) EACH(sigmoid, sigmoid(x[i])) EACH(tanh, tanh_(x[i]))
#define CLAMP(type) extern "C" void clamp_##type(const type* x, type* y, long n) { \\
  for (long i = 0; i < n; ++i) y[i] = clamp(x[i], type(2)); }
CLAMP(float) CLAMP(double)
#define SOFTMAX(type) extern "C" void softmax_##type(const type* x, type* y, long n) { softmax(y, x, type(1), n); }
SOFTMAX(float) SOFTMAX(double)
"""
ELEMENTARY = {
    "exp": torch.exp,
    "log": torch.log,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "clamp": lambda x: x.clamp(-2, 2),
    "softmax": lambda x: x.softmax(0),
}


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> ctypes.CDLL:
    """The kernels' elementary functions in loops over arrays, compiled as the kernels are, but for any machine."""
    compiler = shutil.which("c++") or pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.cpp").write_text(PROBE)
    flags = ["-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
    library = folder / "probe.so"
    headers = Path(kernels.__file__).parent
    command = [compiler, *flags, f"-I{headers}", "-shared", "-fPIC", str(folder / "probe.cpp"), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("function", ELEMENTARY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_functions_equal_torchs_for_all_classes_of_numbers(probe, function, dtype):
    tiny = float(np.finfo(dtype).tiny)
    special = [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        tiny,
        tiny / 8,
        -tiny / 8,
        1.0,
        -1.0,
        88.5,
        89.0,
        -86.7,
        -104.0,
        -1e30,
    ]
    ordinary = np.concatenate([np.linspace(-20, 20, 999), np.geomspace(1e-30, 1e30, 200)])
    cases = (
        [np.array(special + list(ordinary))]
        if function != "softmax"
        else [
            np.array([*row, 0.5, -3.0])
            for row in ([np.nan, 1], [1, np.nan], [np.inf, 1], [-np.inf, 1], [-np.inf] * 2, [1e30, -1e30])
        ]
    )
    run = getattr(probe, f"{function}_{'float' if dtype == np.float32 else 'double'}")
    for case in cases:
        values = case.astype(dtype)
        found = np.empty_like(values)
        run(values.ctypes.data_as(ctypes.c_void_p), found.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(len(values)))
        expected = ELEMENTARY[function](torch.from_numpy(values))
        tolerance = {np.float32: (2e-6, 3e-38), np.float64: (1e-12, 1e-300)}[dtype]
        torch.testing.assert_close(
            torch.from_numpy(found), expected, rtol=tolerance[0], atol=tolerance[1], equal_nan=True
        )
