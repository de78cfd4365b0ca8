"""The NTM between embedding and projection, and the initial time constants of gates."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError

SIZES = {
    "hidden_size": 6,
    "slots": 5,
    "width": 4,
    "read_heads": 2,
    "init": "mixed",
    "tape_logit": 1.0,
    "start_scale": 1.0,
    "horizon": 0,
}


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("inputs", [3, 9])  # embedding and gates as one product, and as two
def test_the_block_is_an_ntm_between_two_linear_layers(inputs, backend):
    torch.manual_seed(0)
    core = make_core("ntm_block", inputs, **SIZES, backend=backend).double()
    torch.nn.init.uniform_(core.gain, -5, 5)
    ntm = make_core("ntm", 6, **SIZES, backend="eager").double()
    missing = ntm.load_state_dict(core.state_dict(), strict=False)
    own = {"gain", "embed.weight", "skip.weight", "project.weight"}
    assert not missing.missing_keys and set(missing.unexpected_keys) == own
    given = torch.randn(7, 2, inputs, dtype=torch.float64)
    state, resets = torch.rand(2, core.state_size, dtype=torch.float64), torch.rand(7, 2) < 0.3

    read, expected_state = ntm(F.linear(given, core.embed.weight), state, resets)
    vectors = read[..., 6:].unflatten(2, (2, 4))
    normalized = vectors / (vectors.square().mean(3, keepdim=True) + 1e-4).sqrt()
    projected = F.linear(0.2 * core.gain * normalized.flatten(2), core.project.weight)
    expected = read[..., :6] + F.linear(given, core.skip.weight) + projected
    found = core(given, state, resets)
    torch.testing.assert_close(found, (expected, expected_state))

    parameters = dict(core.named_parameters())
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((found[0] * weight).sum(), list(parameters.values()))
    tensors = {name: parameters[name] for name in own} | dict(ntm.named_parameters())
    by_name = dict(zip(tensors, torch.autograd.grad((expected * weight).sum(), list(tensors.values())), strict=True))
    for name, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, by_name[name], msg=name)


def test_a_new_block_does_not_read_and_its_gates_see_inputs_as_those_of_an_lstm():
    torch.manual_seed(0)
    core, inputs = make_core("ntm_block", 40), torch.randn(5, 2, 40)
    outputs, after = core(inputs, core.initial_state(2))
    torch.testing.assert_close(outputs[-1], core.unpack(after).hidden + F.linear(inputs[-1], core.skip.weight))
    lstm = torch.nn.LSTM(40, 128)
    effective = core.weight_input @ core.embed.weight
    assert effective.std().item() == pytest.approx(lstm.weight_ih_l0.std().item(), rel=0.1)


@pytest.mark.parametrize(("controller", "keep"), [("lstm", slice(200, 400)), ("gru", slice(200, 400))])
def test_cells_begin_with_time_constants_up_to_the_horizon(controller, keep):
    torch.manual_seed(0)
    core = make_core("ntm", 3, hidden_size=200, controller=controller, horizon=50)
    kept = core.bias[keep].detach().double().numpy()
    constants = 1 / (1 - 1 / (1 + np.exp(-kept)))  # steps in which contents fall to about 1 / e, at input 0
    assert constants.min() >= 2 and constants.max() <= 50
    assert np.median(constants - 1) == pytest.approx(np.sqrt(49), rel=0.3)  # uniform in the logarithm
    if controller == "lstm":
        torch.testing.assert_close(core.bias[:200], -core.bias[keep])


def test_a_horizon_below_two_steps_raises():
    with pytest.raises(InputError, match="horizon = 1: must be an integer of at least 2 or 0"):
        make_core("ntm", 3, horizon=1)
