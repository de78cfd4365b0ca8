"""The NTM as a residual block against a computation of its parts in NumPy, and the initial time constants of gates."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError


def test_the_block_computes_its_parts_in_order():
    torch.manual_seed(0)
    core = make_core("ntm_block", 3, hidden_size=6, slots=5, width=4, read_heads=2, convolution=3).double()
    inputs = torch.randn(7, 1, 3, dtype=torch.float64)
    embedded = F.layer_norm(F.linear(inputs, core.embed.weight, core.embed.bias), [6]).detach()
    kernel, seen = core.kernel.detach().numpy(), np.concatenate([np.zeros((2, 6)), embedded[:, 0].numpy()])
    convolved = np.stack([sum(kernel[lag] * seen[2 + t - lag] for lag in range(3)) for t in range(7)])
    activated = convolved / (1 + np.exp(-convolved))
    read, _ = core.ntm(torch.from_numpy(activated).unsqueeze(1), core.ntm.initial_state(1))
    vectors = read[..., 6:].unflatten(2, (2, 4)).detach().numpy()
    normalized = torch.from_numpy(vectors / np.sqrt(np.mean(vectors**2, axis=-1, keepdims=True) + 1e-4)).flatten(2)
    projected = F.linear(torch.cat([read[..., :6], normalized], dim=2), core.project.weight)
    expected = F.layer_norm(embedded + projected, [6])
    torch.testing.assert_close(core(inputs, core.initial_state(1))[0], expected)


def test_the_size_of_an_observation_passes_the_norm_at_first():
    torch.manual_seed(0)
    core = make_core("ntm_block", 2)
    small, large = (core(torch.full((1, 1, 2), size), core.initial_state(1))[0] for size in (0.1, 0.3))
    assert (large - small).norm() > 0.1 * small.norm()


def test_the_convolution_does_not_see_the_episode_before():
    torch.manual_seed(0)
    core = make_core("ntm_block", 3, hidden_size=6)
    inputs, resets = torch.randn(6, 1, 3), torch.zeros(6, 1, dtype=torch.bool)
    resets[2] = True
    outputs, after = core(inputs, core.initial_state(1), resets)
    alone, alone_after = core(inputs[2:], core.initial_state(1))
    torch.testing.assert_close((outputs[2:], after), (alone, alone_after))


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
