"""The feedforward cores, and their use of past steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.cores.episodes import Recent, episode_numbers
from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError


def stacked_by_hand(inputs, resets, frames) -> np.ndarray:
    """Inputs of a frame stack, newest first, for one sequence `[T, I]` that starts an episode."""
    rows = []
    for t in range(len(inputs)):
        begin = max([0, *(s for s in range(t + 1) if resets[s])])
        rows.append(np.concatenate([inputs[t - lag] if t - lag >= begin else 0 * inputs[t] for lag in range(frames)]))
    return np.stack(rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.floats(0, 0.5), st.integers(0, 999))
def test_a_frame_stack_is_a_perceptron_on_the_last_inputs_of_the_episode(frames, steps, rate, seed):
    torch.manual_seed(seed)
    core = make_core("frame_stack", 2, hidden_size=4, layers=2, frames=frames).double()
    inputs, resets = torch.randn(steps, 2, 2, dtype=torch.float64), torch.rand(steps, 2) < rate
    found, state = core(inputs, core.initial_state(2), resets)
    first, _, second, _ = core.network
    for b in range(2):
        seen = stacked_by_hand(inputs[:, b].numpy(), resets[:, b].numpy(), frames)
        hidden = np.tanh(seen @ first.weight.detach().numpy().T + first.bias.detach().numpy())
        expected = np.tanh(hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy())
        np.testing.assert_allclose(found[:, b].detach().numpy(), expected, rtol=1e-10)
        kept = core.unpack(state).inputs[b].numpy()  # oldest first, what the next step sees beside its own
        np.testing.assert_array_equal(kept[::-1].ravel(), seen[-1, : 2 * (frames - 1)])


def test_a_feedforward_core_has_no_memory():
    core = make_core("feedforward", 2, hidden_size=4)
    inputs = torch.randn(5, 3, 2)
    outputs, state = core(inputs, core.initial_state(3))
    alone, _ = core(inputs[4:], core.initial_state(3))
    torch.testing.assert_close(outputs[4:], alone)
    assert core.state_size == 1 and state.shape == (3, 1) and core.unpack(state).inputs.numel() == 0


def test_a_frame_stack_of_one_is_the_feedforward_core():
    plain = make_core("feedforward", 2, hidden_size=4, layers=2)
    stack = make_core("frame_stack", 2, hidden_size=4, layers=2, frames=1)
    stack.load_state_dict(plain.state_dict())
    inputs = torch.randn(5, 3, 2)
    torch.testing.assert_close(stack(inputs, stack.initial_state(3)), plain(inputs, plain.initial_state(3)))


def test_episodes_are_numbered_from_the_current_one():
    resets = torch.tensor([[False, True], [False, False], [True, True]])
    assert episode_numbers(resets, resets).tolist() == [[0, 1], [0, 1], [1, 2]]
    assert episode_numbers(resets, None).tolist() == [[0, 0]] * 3


def test_lags_and_the_last_steps_are_zero_before_the_episode_even_where_values_are_nan():
    resets = torch.tensor([[False], [True], [False]])
    steps = torch.tensor([[[torch.nan]], [[1.0]], [[2.0]]])
    recent = Recent.join(torch.tensor([[[8.0], [9.0]]]), steps, episode_numbers(steps, resets))
    now, before, two_before = (lag[:, 0, 0].tolist() for lag in recent.lags(3))
    assert now[1:] == [1, 2] and before == [9, 0, 1] and two_before == [8, 0, 0]
    assert recent.last(3)[0, :, 0].tolist() == [0, 1, 2] and recent.last(0).shape == (1, 0, 1)


@pytest.mark.parametrize(
    ("name", "key", "low"),
    [("feedforward", "layers", 0), ("feedforward", "hidden_size", 1), ("frame_stack", "frames", 1)],
)
def test_sizes_that_are_too_small_are_named(name, key, low):
    with pytest.raises(InputError, match=f"{key} = {low - 1}: must be an integer of at least {low}"):
        make_core(name, 3, **{key: low - 1})


def test_a_core_without_layers_returns_its_inputs():
    core = make_core("feedforward", 3, layers=0).double()
    inputs = torch.randn(4, 2, 3, dtype=torch.float64)
    outputs, state = core(inputs, core.initial_state(2), None)
    assert core.output_size == 3 and torch.equal(outputs, inputs)
    assert state.shape == (2, 1) and not list(core.parameters())
    with torch.device("meta"):
        loaded = make_core("feedforward", 3, layers=0)
    loaded.load_state_dict(core.state_dict(), assign=True)
    assert torch.equal(loaded(inputs, loaded.initial_state(2))[0], inputs)
