"""Second derivatives, vmap, export and torch.compile of every core, and modifications before the backward pass."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.registry import core_names, make_core
from ntm_rl.errors import InputError

SLOTS = {"slots": 5, "width": 2}
SMALL = {"ntm": SLOTS, "dnc": SLOTS, "mann": SLOTS, "sam": {**SLOTS, "slots_read": 5}}
CORES = [(name, {"hidden_size": 3, **SMALL.get(name, {})}) for name in core_names()] + [
    ("ntm", {"hidden_size": 3, **SLOTS, "controller": "gru", "learned_start": True, "memory_init": "learned"}),
    ("dnc", {"hidden_size": 3, **SLOTS, "mask_content": True, "wipe_freed": True, "sharpen_links": True}),
    ("lstm", {"hidden_size": 3, "layers": 2}),
]
every_core = pytest.mark.parametrize(("name", "options"), CORES, ids=str)
# torch.compile, torch.export and forward mode import what torch deprecates.
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def build(name: str, options: dict) -> tuple[MemoryCore, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A core, inputs, a state in the middle of an episode, and resets."""
    torch.manual_seed(0)
    core = make_core(name, 2, **options).double()
    with torch.no_grad():
        _, state = core(torch.randn(2, 2, 2).double(), core.initial_state(2))
    resets = torch.zeros(4, 2, dtype=torch.bool)
    resets[2, 0] = True
    return core, torch.randn(4, 2, 2).double(), state, resets


@every_core
def test_second_derivatives_equal_finite_differences(name, options):
    core, inputs, state, resets = build(name, options)
    assert torch.autograd.gradgradcheck(lambda inputs: core(inputs, state, resets)[0], inputs.requires_grad_())


@pytest.mark.parametrize("name", ["ntm", "dnc"])
def test_a_kernels_second_derivatives_are_those_of_the_eager_core(name):
    found = []
    for backend in ("fused", "eager"):
        core, inputs, state, resets = build(name, {"hidden_size": 3, **SLOTS, "backend": backend})
        wanted = [inputs.requires_grad_(), state.requires_grad_(), *core.parameters()]
        outputs, after = core(inputs, state, resets)
        loss = outputs.square().sum() + after[:, 1:].square().sum()
        first = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
        penalty = sum(gradient.square().sum() for gradient in first if gradient is not None)
        found.append(torch.autograd.grad(penalty, wanted, allow_unused=True))
    torch.testing.assert_close(*found)


@every_core
def test_gradients_of_each_sequence_by_vmap_equal_those_one_by_one(name, options):
    core, inputs, state, resets = build(name, options)
    weights = {key: weight.detach() for key, weight in core.named_parameters()}

    def loss(weights, inputs, state, resets):
        given = (inputs.unsqueeze(1), state.unsqueeze(0), resets.unsqueeze(1))
        return torch.func.functional_call(core, weights, given)[0].square().sum()

    found = torch.vmap(torch.func.grad(loss), (None, 1, 0, 1))(weights, inputs, state, resets)
    for b in range(2):
        outputs, _ = core(inputs[:, b : b + 1], state[b : b + 1], resets[:, b : b + 1])
        expected = torch.autograd.grad(outputs.square().sum(), list(core.parameters()), allow_unused=True)
        for (key, _), gradient in zip(core.named_parameters(), expected, strict=True):
            if gradient is not None:
                torch.testing.assert_close(found[key][b], gradient)


@every_core
def test_gradients_in_a_batch_equal_those_one_by_one(name, options):
    core, inputs, state, resets = build(name, options)
    outputs, _ = core(inputs.requires_grad_(), state.requires_grad_(), resets)
    wanted, weights = [inputs, state, *core.parameters()], torch.randn(3, *outputs.shape).double()
    found = torch.autograd.grad(
        outputs, wanted, weights, is_grads_batched=True, retain_graph=True, materialize_grads=True
    )
    for number, each in enumerate(weights):
        expected = torch.autograd.grad(outputs, wanted, each, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close([gradient[number] for gradient in found], list(expected))


@compiles
@every_core
def test_forward_mode_agrees_with_reverse_mode(name, options):
    core, inputs, state, resets = build(name, options)

    def run(inputs):
        return core(inputs, state, resets)[0]

    tangent = torch.randn_like(inputs)
    outputs, moved = torch.func.jvp(run, (inputs,), (tangent,))
    gradient = torch.randn_like(outputs)
    (of_inputs,) = torch.autograd.grad(run(inputs.requires_grad_()), inputs, gradient)
    torch.testing.assert_close((moved * gradient).sum(), (of_inputs * tangent).sum())


@compiles
@every_core
def test_an_ensemble_of_cores_by_vmap_equals_its_members(name, options):
    core, inputs, state, resets = build(name, options)
    members = [core, make_core(name, 2, **options).double()]
    found = torch.vmap(lambda *weights: torch.func.functional_call(core, weights, (inputs, state, resets))[0])(
        *torch.func.stack_module_state(members)
    )
    torch.testing.assert_close(found, torch.stack([member(inputs, state, resets)[0] for member in members]))


@compiles
def test_a_linearized_core_gives_the_derivative():
    core, inputs, state, resets = build("ntm", {"hidden_size": 3, **SLOTS})
    tangent = torch.randn_like(inputs)

    def run(inputs):
        return core(inputs, state, resets)[0]

    linear = torch.func.linearize(run, inputs)[1]
    torch.testing.assert_close(linear(tangent), torch.func.jvp(run, (inputs,), (tangent,))[1])


@compiles
@pytest.mark.parametrize("name", ["ntm", "lstm", "dnc", "gated_delta"])
def test_an_exported_core_gives_the_same(name):
    core, inputs, state, resets = build(name, {"hidden_size": 3, **SMALL.get(name, {})})
    exported = torch.export.export(core, (inputs, state, resets)).module()
    other = ~resets
    torch.testing.assert_close(exported(inputs, state, other), core(inputs, state, other))


@compiles
@pytest.mark.parametrize("name", ["ntm", "dnc"])
def test_the_graph_of_torch_compile_contains_the_kernel(name):
    core, inputs, state, resets = build(name, {"hidden_size": 3, **SLOTS})
    operators = []

    def look(graph, _):
        operators.extend(str(node.target) for node in graph.graph.nodes if "ntm_rl" in str(node.target))
        return graph.forward

    compiled = torch.compile(core, fullgraph=True, backend=look)
    torch.testing.assert_close(compiled(inputs, state, resets), core(inputs, state, resets))
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs, state, resets), core(inputs, state, resets))
    assert operators == [f"ntm_rl.{name}_sequence.default", f"ntm_rl.{name}_forward.default"]
    checked = torch.compile(core, fullgraph=True, backend="aot_eager")
    wanted = [inputs.requires_grad_(), state.requires_grad_(), *core.parameters()]
    found, expected = (
        torch.autograd.grad(run(inputs, state, resets)[0].square().sum(), wanted, allow_unused=True)
        for run in (checked, core)
    )
    torch.testing.assert_close(found, expected)


@compiles
@pytest.mark.parametrize("name", ["ntm", "dnc"])
def test_transforms_inside_torch_compile_give_the_same(name):
    core, inputs, state, resets = build(name, {"hidden_size": 3, **SMALL.get(name, {})})

    def run(inputs):
        return core(inputs, state, resets)[0]

    def derivatives(inputs):
        tangent = torch.func.jvp(run, (inputs,), (torch.ones_like(inputs),))[1]
        return tangent, torch.func.grad(lambda inputs: run(inputs).square().sum())(inputs)

    torch.testing.assert_close(torch.compile(derivatives, backend="eager")(inputs), derivatives(inputs))


@pytest.mark.parametrize("name", ["ntm", "dnc", "lstm"])
def test_a_flop_counter_counts_the_operations_of_a_kernel(name):
    core, inputs, state, resets = build(name, {"hidden_size": 3, **SMALL.get(name, {})})
    with FlopCounterMode(display=False) as counter:
        core(inputs, state, resets)
    steps_of_gates = 2 * 4 * 2 * 4 * 3 * 3  # multiply and add: T B, 4 H rows, at least H columns
    assert counter.get_total_flops() >= steps_of_gates


@pytest.mark.parametrize("name", ["ntm", "dnc", "lstm", "gru", "sam"])
def test_a_core_runs_on_fake_tensors(name):
    core, inputs, state, resets = build(name, {"hidden_size": 3, **SMALL.get(name, {})})
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        outputs, after = core(*map(mode.from_tensor, (inputs, state, resets)))
    assert outputs.shape == (4, 2, core.output_size) and after.shape == state.shape


@every_core
@pytest.mark.parametrize("changed", ["inputs", "state", "resets", "weights"])
def test_tensors_modified_before_the_backward_pass_are_an_error_or_change_nothing(name, options, changed):
    gradients = []
    for change in (False, True):
        core, inputs, state, resets = build(name, options)
        outputs, after = core(inputs, state, resets)
        with torch.no_grad():
            given = {"inputs": [inputs], "state": [state], "resets": [resets], "weights": list(core.parameters())}
            for each in given[changed] if change else []:
                each.copy_(~each if each.dtype == torch.bool else each * 3 + 1)
        loss = outputs.square().sum() + after[:, 1:].square().sum()
        try:
            gradients.append(torch.autograd.grad(loss, list(core.parameters()), allow_unused=True))
        except RuntimeError as error:
            assert change and "modified by an inplace operation" in str(error)
            return
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        (name, weight)
        for name in ("ntm", "dnc", "lstm", "gru", "ntm_block")
        for weight, _ in make_core(name, 2).named_parameters()
    ],
)
@pytest.mark.parametrize("with_gradients", [True, False])
def test_a_weight_of_another_shape_is_an_error(name, weight, with_gradients):
    core, inputs, state, resets = build(name, {"hidden_size": 3, **SMALL.get(name, {})})
    wrong = {weight: torch.zeros(2, *dict(core.named_parameters())[weight].shape[1:]).double()}
    with (
        torch.set_grad_enabled(with_gradients),
        pytest.raises((ValueError, RuntimeError), match=r"must be|must match|cannot be multiplied"),
    ):
        torch.func.functional_call(core, wrong, (inputs[:1], state, resets[:1]))


@pytest.mark.parametrize(("name", "rows"), [("lstm", 12), ("gru", 9)])
def test_a_bias_of_one_element_is_not_broadcast_over_the_gates(name, rows):
    core, inputs, state, resets = build(name, {"hidden_size": 3})
    wrong = {"network.bias_hh_l0": torch.zeros(1).double()}
    with pytest.raises(ValueError, match=rf"bias_hh of shape \[1\]: must be \[{rows}\]"):
        torch.func.functional_call(core, wrong, (inputs, state, resets))


@every_core
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_an_error(name, options, dtype):
    core, inputs, _, _ = build(name, options)
    core.to(dtype)
    with pytest.raises(InputError, match=rf"core in {dtype}: must be in torch.float32 or torch.float64"):
        core(inputs.to(dtype), core.initial_state(2))


@every_core
def test_a_packed_sequence_is_an_error_with_the_fix(name, options):
    core, inputs, state, _ = build(name, options)
    with pytest.raises(InputError, match="inputs of type PackedSequence: must be a tensor; pad"):
        core(pack_sequence([inputs[:, 0], inputs[:3, 1]]), state)
    with pytest.raises(InputError, match=r"state of type NoneType: must be a tensor; begin with core.initial_state"):
        core(inputs, None)


@pytest.mark.parametrize("name", ["ntm", "lstm", "dnc", "sam"])
def test_a_backward_pass_under_autocast_is_in_the_parameters_precision(name):
    torch.manual_seed(0)
    core = make_core(name, 8, hidden_size=16)
    inputs, gradients = torch.randn(4, 3, 8), []
    for is_on in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            outputs, _ = core(inputs, core.initial_state(3))
            loss = outputs.square().sum()
            weights = [
                core.get_parameter(key) for key, _ in core.named_parameters() if "feedback" in key or "hh" in key
            ]
            gradients.append(torch.autograd.grad(loss, weights, retain_graph=True))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
