"""Errors of invalid arguments, and the registry of cores."""

import numpy as np
import pytest
import torch

from ntm_rl.cores import registry
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import core_class, core_names, core_options, make_core, register_core
from ntm_rl.errors import InputError

every_core = pytest.mark.parametrize("name", core_names())


def build(name: str) -> tuple[MemoryCore, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A core with inputs, state and resets that fit."""
    core = make_core(name, 3, hidden_size=6)
    return core, torch.randn(4, 2, 3), core.initial_state(2), torch.rand(4, 2) < 0.3


@every_core
def test_arguments_of_wrong_shape_are_named(name):
    core, inputs, state, resets = build(name)
    for wrong, message in [
        ((inputs[..., :2], state, resets), r"inputs of shape \[4, 2, 2\]: must be \[T, B, 3\]"),
        ((inputs[0], state, resets), r"inputs of shape \[2, 3\]"),
        ((inputs[:0], state, resets[:0]), "with T above 0"),
        ((inputs, state[:1], resets), rf"state of shape \[1, {core.state_size}\]: must be \[2, {core.state_size}\]"),
        ((inputs, state[:, :-1], resets), "state of shape"),
        ((inputs, state, resets[:3]), r"resets of shape \[3, 2\], torch.bool: must be \[4, 2\]"),
        ((inputs, state, resets.float()), r"resets of shape \[4, 2\], torch.float32"),
    ]:
        with pytest.raises(InputError, match=message):
            core(*wrong)


@every_core
@pytest.mark.parametrize("moved", ["inputs", "state", "resets", "core"])
def test_arguments_on_two_devices_are_named(name, moved):
    core, *given = build(name)
    tensors = dict(zip(("inputs", "state", "resets", "core"), [*given, core], strict=True))
    tensors[moved] = tensors[moved].to("meta")
    found = ", ".join(f"{key} on {'meta' if key == moved else 'cpu'}" for key in tensors)
    with pytest.raises(InputError, match=rf"^{found}: must be on one device; move them with .to\(device\)$"):
        tensors.pop("core")(*tensors.values())


@every_core
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's of torch.jit
def test_torchscript_is_an_error_with_the_fix(name):
    core, *given = build(name)
    with pytest.raises(InputError, match=r"does not run in TorchScript .* use torch.export.export"):
        torch.jit.trace(core, tuple(given))
    with pytest.raises(InputError, match=r"does not run in TorchScript .* use torch.export.export"):
        torch.jit.script(torch.nn.ModuleDict({"core": core}))


def test_unknown_cores_and_options_have_a_suggestion():
    valid = ", ".join(core_names())
    with pytest.raises(InputError, match=rf"core = 'lstn': unknown core; valid are {valid}. Did you mean lstm\?"):
        core_class("lstn")
    with pytest.raises(InputError, match=r"hiden_size: core 'gru' has no such option.*Did you mean hidden_size\?"):
        make_core("gru", 3, hiden_size=4)
    with pytest.raises(InputError, match="layers = 0: must be an integer of at least 1"):
        make_core("lstm", 3, layers=0)


@every_core
@pytest.mark.parametrize(("input_size", "shown"), [("x", "'x'"), (2.5, r"2\.5"), (None, "None"), (True, "True")])
def test_an_input_size_that_is_not_an_integer_is_named(name, input_size, shown):
    with pytest.raises(InputError, match=f"^input_size = {shown}: must be an integer of at least 1$"):
        make_core(name, input_size)


@every_core
def test_sizes_may_be_numpy_integers(name):
    core = make_core(name, np.int64(3), hidden_size=np.int64(6))
    outputs, _ = core(torch.zeros(2, 1, 3), core.initial_state(1))
    assert outputs.shape == (2, 1, core.output_size)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("key", ["hidden_size", "layers"])
def test_sizes_that_are_not_integers_are_named(kind, key):
    with pytest.raises(InputError, match=rf"^{key} = 2\.5: must be an integer of at least 1$"):
        make_core(kind, 3, **{key: 2.5})


@pytest.mark.parametrize("name", [None, 3, ["ntm"]])
def test_a_core_name_that_is_not_a_string_is_an_unknown_core(name):
    with pytest.raises(InputError, match=f"unknown core; valid are {', '.join(core_names())}"):
        make_core(name, 3)


def test_a_registered_core_is_found_by_name(monkeypatch):
    monkeypatch.setattr(registry, "_CORES", dict(registry._CORES))

    @register_core("mine")
    class Mine(core_class("gru")):
        pass

    assert core_class("mine") is Mine
    assert core_options("gru") == ("hidden_size", "layers")


@pytest.mark.parametrize(
    ("name", "base", "message"),
    [
        ("gru", MemoryCore, "is the name of a built-in core"),
        ("mine", torch.nn.Module, "Mine must be a subclass of ntm_rl.MemoryCore"),
    ],
)
def test_a_core_that_cannot_be_registered_is_named(name, base, message, monkeypatch):
    monkeypatch.setattr(registry, "_CORES", dict(registry._CORES))
    with pytest.raises(InputError, match=rf"^register_core\('{name}'\): {message}"):
        register_core(name)(type("Mine", (base,), {}))


def test_options_behind_keyword_arguments_are_those_of_the_base_class(monkeypatch):
    monkeypatch.setattr(registry, "_CORES", dict(registry._CORES))

    @register_core("mine")
    class Mine(core_class("gru")):
        def __init__(self, input_size, *, gain=2.0, **options):
            super().__init__(input_size, **options)

    assert core_options("mine") == ("gain", "hidden_size", "layers")
    assert make_core("mine", 3, hidden_size=5, layers=1).output_size == 5
