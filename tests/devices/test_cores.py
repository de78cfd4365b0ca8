"""Every core on a device against the CPU.

Tolerances are for float32, in whose rounding devices differ; gradients sum the errors of all steps.
"""

import copy

import pytest
import torch
from stable_baselines3.common.utils import polyak_update

from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.devices import full_precision
from ntm_rl.cores.registry import core_names, core_options, make_core
from ntm_rl.cores.sam import Sam
from stand_in_device import NAME, take_waits

CORES = [(name, {}) for name in core_names()] + [
    ("ntm", {"controller": "gru", "read_heads": 2, "shift_range": 2, "init": "tape"}),
    ("ntm", {"controller": "feedforward", "memory_init": "learned", "learned_start": True}),
    ("ntm", {"memory_init": "random", "write_heads": 2, "shift_range": 0}),
    ("lstm", {"layers": 2}),
    ("gru", {"layers": 2}),
    ("elman", {"layers": 2}),
    ("gated_delta", {"layers": 2, "convolution": 1}),
    ("gtrxl", {"window": 2, "layers": 3}),
    ("frame_stack", {"frames": 7, "layers": 2}),
    ("dnc", {"read_heads": 2, "mask_content": True, "wipe_freed": True, "sharpen_links": True}),
    ("sam", {"slots": 2048, "heads": 2, "slots_read": 3}),  # searched in blocks
    ("mann", {"heads": 3}),
]
every_core = pytest.mark.parametrize(("name", "options"), CORES, ids=str)
OUTPUTS = {"rtol": 1e-4, "atol": 1e-5}
GRADIENTS = {"rtol": 1e-3, "atol": 1e-4}
STEPS, BATCH = 12, 4
CPU = torch.device("cpu")


def build(name: str, options: dict, device: torch.device = CPU) -> tuple[MemoryCore, MemoryCore]:
    """A core on the CPU and an equal one on the device; both eager."""
    core = make_core(name, 3, hidden_size=8, **eager(name), **options)
    return core, copy.deepcopy(core).to(device)


def eager(name: str) -> dict[str, str]:
    return {"backend": "eager"} if "backend" in core_options(name) else {}


def sequence(core: MemoryCore) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, a state in the middle of an episode, and resets inside the sequence."""
    with torch.no_grad():
        _, state = core(torch.randn(3, BATCH, 3), core.initial_state(BATCH))
        if isinstance(core, Sam):  # which one of several equal slots is read depends on rounding
            core.memory(state).add_(0.1 * torch.randn(core.memory(state).shape))
    resets = torch.rand(STEPS, BATCH) < 0.2
    resets[5, 1] = True
    return torch.randn(STEPS, BATCH, 3), state, resets


def gradients(core: MemoryCore, *arguments: torch.Tensor) -> list[torch.Tensor]:
    core.zero_grad()
    outputs, state = core(*arguments)
    weights = torch.linspace(-1, 1, outputs.numel(), device=outputs.device).view_as(outputs)
    ((outputs * weights).sum() + state.square().mean()).backward()
    return [parameter.grad for parameter in core.parameters() if parameter.grad is not None]


def on(device: torch.device, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to(device) for tensor in tensors]


def assert_close(found, expected, **tolerances) -> None:
    torch.testing.assert_close(found, expected, check_device=False, check_stride=False, **tolerances)


@every_core
def test_a_core_computes_as_on_the_cpu(name, options, device):
    core, other = build(name, options, device)
    arguments = sequence(core)
    moved = on(device, *arguments)
    found, expected = other(*moved), core(*arguments)
    assert all(each.device == device for each in found)
    assert_close([each.cpu() for each in found], list(expected), **OUTPUTS)
    assert_close([each.cpu() for each in gradients(other, *moved)], gradients(core, *arguments), **GRADIENTS)


@every_core
def test_steps_with_resets_are_those_of_the_cpu(name, options, device):
    core, other = build(name, options, device)
    inputs, state, resets = sequence(core)
    expected, _ = core(inputs, state, resets)
    state, outputs = state.to(device), []
    with torch.no_grad():
        for step, reset in zip(inputs.to(device), resets.to(device), strict=True):
            output, state = other(step.unsqueeze(0), state, reset.unsqueeze(0))
            outputs.append(output)
    assert_close(torch.cat(outputs).cpu(), expected.detach(), **OUTPUTS)


@every_core
def test_a_core_never_waits_for_the_device(name, options, device):
    core, other = build(name, options, device)
    arguments = on(device, *sequence(core))
    if device.type == NAME:
        take_waits()
        gradients(other, *arguments)
        with torch.no_grad():
            other(arguments[0][:1], arguments[1], arguments[2][:1])
        assert take_waits() == []
    else:
        gradients(other, *arguments)
        torch.cuda.set_sync_debug_mode("error")
        try:
            gradients(other, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@every_core
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(name, options, dtype, device):
    core, other = build(name, options, device)
    arguments, run, seen = on(device, *sequence(core)), other._run, []
    expected = other(*arguments)
    other._run = lambda *given: seen.append(torch.is_autocast_enabled(device.type)) or run(*given)
    with torch.autocast(device.type, dtype):
        found = other(*arguments)
        assert torch.is_autocast_enabled(device.type)
    assert_close(found, expected, **OUTPUTS)
    assert seen == [False]


@pytest.fixture
def refusing_modules(device, monkeypatch):
    """Lets torch's recurrent modules fail as with cuDNN, which only a GPU has."""

    def refusing(run):
        def checked(*arguments):
            *_, is_training, _, _ = arguments
            assert is_training or not torch.is_grad_enabled(), "RNN backward can only be called in training mode"
            return run(*arguments)

        return checked

    if device.type == NAME:
        for kind in ("lstm", "gru", "rnn_tanh"):
            monkeypatch.setattr(torch._VF, kind, refusing(getattr(torch._VF, kind)))


@every_core
def test_gradients_in_evaluation_mode_are_those_in_training_mode(name, options, device, refusing_modules):
    core, other = build(name, options, device)
    arguments = on(device, *sequence(core))
    for given in (arguments, arguments[:2]):
        expected = gradients(other.train(), *given)
        assert_close(gradients(other.eval(), *given), expected, **GRADIENTS)


def other_weights(core: MemoryCore) -> dict[str, torch.Tensor]:
    return {name: torch.rand_like(tensor) for name, tensor in core.state_dict().items()}


CHANGES = {
    "copy_": lambda core, new: [tensor.copy_(new[name]) for name, tensor in core.state_dict().items()],
    "data": lambda core, new: [setattr(each, "data", new[name]) for name, each in core.named_parameters()],
    "load_state_dict": lambda core, new: core.load_state_dict(new),
    "assign": lambda core, new: core.load_state_dict(new, assign=True),
    "polyak_update": lambda core, new: polyak_update(new.values(), core.state_dict().values(), 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "options",
    [{"memory_init": "learned", "learned_start": True}, {"memory_init": "random"}, {"init": "tape"}],
    ids=str,
)
def test_steps_begin_with_the_current_start_of_a_frozen_core(options, change, device):
    _, core = build("ntm", options, device)
    core.requires_grad_(False)
    inputs, state = torch.randn(1, BATCH, 3, device=device), core.initial_state(BATCH)
    core(inputs, state)
    with torch.no_grad():
        CHANGES[change](core, other_weights(core))
    fresh = build("ntm", options, device)[1]
    fresh.load_state_dict(core.state_dict())
    assert_close(core(inputs, state), fresh(inputs, state), **OUTPUTS)
    replaced = other_weights(core)
    fresh.load_state_dict(replaced)
    found = torch.func.functional_call(core, replaced, (inputs, state))
    assert_close(found, fresh(inputs, state), **OUTPUTS)


def tf32_settings() -> tuple:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.allow_tf32, matmul.fp32_precision, cudnn.allow_tf32


def allow_tf32_by_the_newer_interface(precision: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32" if precision == "high" else "ieee"


@pytest.mark.parametrize("allow", [torch.set_float32_matmul_precision, allow_tf32_by_the_newer_interface])
def test_no_core_computes_in_tf32(allow, device):
    core = build("ntm", {}, device)[1]
    arguments = on(device, *sequence(build("ntm", {})[0]))
    expected, seen = core(*arguments), []
    handle = core.head_layer.register_forward_pre_hook(lambda *_: seen.append(tf32_settings()))
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.allow_tf32
    try:
        allow("high")
        found = core(*arguments)
        assert set(seen) == {(False, "ieee", False)}
        assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.allow_tf32) == ("tf32", before[1])
    finally:
        allow("highest")
        handle.remove()
    assert_close(found, expected, **OUTPUTS)
    with full_precision(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 == before[1]


def test_tensors_of_two_devices_are_an_error(device):
    _, core = build("lstm", {}, device)
    with pytest.raises(ValueError, match="must be on one device"):
        core(torch.zeros(1, 2, 3), core.initial_state(2))
    with pytest.raises(RuntimeError, match="same device"):  # the stand-in fails as a GPU does
        core.network(torch.zeros(1, 2, 3))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("name", ["ntm", "ntm_block"])
def test_compiled_steps_are_those_of_an_eager_core(name):
    device = torch.device("cuda", 0)
    expected = build(name, {}, device)[1]
    arguments = on(device, *sequence(build(name, {})[0]))
    compiled = make_core(name, 3, hidden_size=8, backend="compile").to(device)
    compiled.load_state_dict(expected.state_dict())
    for _ in range(4):  # compilation, warm-up and recording of CUDA graphs, replays
        assert_close(compiled(*arguments), expected(*arguments), **OUTPUTS)
        assert_close(gradients(compiled, *arguments), gradients(expected, *arguments), **GRADIENTS)
    with torch.no_grad():
        for count in [1, 2, 3, BATCH, 1, 2, 3, BATCH]:
            part = [arguments[0][:1, :count], arguments[1][:count], arguments[2][:1, :count]]
            assert_close(compiled(*part), expected(*part), **OUTPUTS)
