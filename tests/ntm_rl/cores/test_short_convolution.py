"""The short convolution against a loop in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.cores.short_convolution import short_convolution

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 999))


def random_arguments(steps, batch, features, lags, seed) -> tuple[torch.Tensor, ...]:
    """Steps, the steps before them, kernel and resets."""
    torch.manual_seed(seed)
    sequence = torch.randn(steps, batch, features, dtype=torch.float64)
    recent = torch.randn(batch, lags - 1, features, dtype=torch.float64)
    kernel = torch.randn(lags, features, dtype=torch.float64)
    return sequence, recent, kernel, torch.rand(steps, batch) < 0.3


def loop(sequence, recent, kernel, resets) -> tuple[np.ndarray, np.ndarray]:
    """Steps one sequence at a time and forgets the steps before a reset."""
    convolved, after = np.zeros(sequence.shape), np.zeros(recent.shape)
    for number in range(sequence.shape[1]):
        seen = [*recent[number].numpy()]
        for step, reset in enumerate(resets[:, number].tolist()):
            seen = [np.zeros_like(each) for each in seen] if reset else seen
            seen.append(sequence[step, number].numpy())
            convolved[step, number] = sum(weight * seen[-1 - lag] for lag, weight in enumerate(kernel.numpy()))
        after[number] = np.reshape(seen[len(seen) - recent.shape[1] :], recent.shape[1:])
    return convolved, after


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_sequences_equal_the_loop_with_resets_anywhere(shape):
    sequence, recent, kernel, resets = random_arguments(*shape)
    found = short_convolution(sequence, recent, resets.cumsum(0), kernel)
    for expected, each in zip(loop(sequence, recent, kernel, resets), found, strict=True):
        np.testing.assert_allclose(each.numpy(), expected, rtol=1e-12, atol=1e-13)


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_single_steps_equal_a_sequence(shape):
    sequence, recent, kernel, resets = random_arguments(*shape)
    expected, expected_recent = short_convolution(sequence, recent, resets.cumsum(0), kernel)
    for step in range(len(sequence)):
        output, recent = short_convolution(sequence[step : step + 1], recent, resets[step : step + 1].long(), kernel)
        torch.testing.assert_close(output[0], expected[step])
    torch.testing.assert_close(recent, expected_recent)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("lags", [1, 3])
def test_first_and_second_derivatives_equal_finite_differences(steps, lags):
    sequence, recent, kernel, _ = random_arguments(steps, 3, 2, lags, seed=0)
    resets = torch.zeros(steps, 3, dtype=torch.bool)
    resets[0, 1] = resets[steps // 2, 2] = True
    arguments = [each.requires_grad_() for each in (sequence, recent, kernel)]

    def convolve(steps, recent, kernel):
        return short_convolution(steps, recent, resets.cumsum(0), kernel)

    assert torch.autograd.gradcheck(convolve, arguments)
    assert torch.autograd.gradgradcheck(convolve, arguments)


def test_a_step_that_is_not_finite_stays_in_its_episode():
    sequence, recent, kernel, _ = random_arguments(6, 1, 2, 3, seed=0)
    sequence[2], recent[:] = torch.nan, torch.inf
    resets = torch.tensor([[True], [False], [False], [True], [False], [False]])
    sequence.requires_grad_()
    convolved, after = short_convolution(sequence, recent, resets.cumsum(0), kernel)
    assert torch.isfinite(convolved[[0, 1, 3, 4, 5]]).all() and torch.isfinite(after).all()
    (gradient,) = torch.autograd.grad(convolved[3:].sum(), sequence)
    assert torch.isfinite(gradient[3:]).all() and not gradient[:3].any()
