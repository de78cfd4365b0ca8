"""The memory's equations against plain loops written from the paper (arXiv:1410.5401, section 3)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.addressing import ntm as addressing

B, N, M, K, REACH = 2, 7, 4, 3, 2


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def simplex(*shape: int, seed: int = 0) -> np.ndarray:
    weights = np.exp(draw(*shape, seed=seed))
    return weights / weights.sum(-1, keepdims=True)


def tensors(*arrays: np.ndarray) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.asarray(array)) for array in arrays)


def test_content_weighting_is_a_softmax_of_strength_times_cosine():
    memory, keys, strengths = draw(B, N, M), draw(B, K, M), np.abs(draw(B, K)) + 0.1
    found = addressing.content_weighting(*tensors(memory, keys, strengths)).numpy()
    for b in range(B):
        for k in range(K):
            scores = np.zeros(N)
            for n in range(N):
                u, v = keys[b, k], memory[b, n]
                scores[n] = strengths[b, k] * np.dot(u, v) / (np.sqrt(np.dot(u, u)) * np.sqrt(np.dot(v, v)))  # eq. 6
            expected = np.exp(scores) / np.exp(scores).sum()  # eq. 5
            np.testing.assert_allclose(found[b, k], expected, rtol=1e-4)  # the epsilon in the norms


def test_a_blank_slot_or_key_has_similarity_zero_and_a_bounded_gradient():
    memory = torch.full((1, 3, M), 1e-6, requires_grad=True)
    keys = torch.ones(1, 1, M)
    similarity = addressing.cosine_similarity(memory, keys)
    assert similarity.abs().max() < 0.01
    similarity.sum().backward()
    assert memory.grad.abs().max() < 2e3
    blank = addressing.cosine_similarity(torch.zeros(1, 2, M), torch.zeros(1, 1, M))
    assert torch.equal(blank, torch.zeros(1, 1, 2))


@pytest.mark.parametrize(("gate", "part"), [(0.0, "previous"), (1.0, "content")])
def test_a_closed_gate_keeps_the_previous_weighting_and_an_open_one_takes_the_content_weighting(gate, part):
    content, previous = simplex(B, K, N, seed=1), simplex(B, K, N, seed=2)
    found = addressing.interpolate(*tensors(content, previous, np.full((B, K), gate)))
    np.testing.assert_allclose(found, content if part == "content" else previous)


def test_interpolation_blends():
    content, previous, gates = (
        simplex(B, K, N, seed=1),
        simplex(B, K, N, seed=2),
        np.random.default_rng(3).random((B, K)),
    )
    found = addressing.interpolate(*tensors(content, previous, gates)).numpy()
    for b in range(B):
        for k in range(K):
            for n in range(N):
                expected = gates[b, k] * content[b, k, n] + (1 - gates[b, k]) * previous[b, k, n]  # eq. 7
                assert found[b, k, n] == pytest.approx(expected)


def test_shift_is_a_circular_convolution():
    weightings, shifts = simplex(B, K, N), simplex(B, K, 2 * REACH + 1)
    found = addressing.shift(*tensors(weightings, shifts)).numpy()
    for b in range(B):
        for k in range(K):
            for i in range(N):
                expected = 0.0
                for j in range(N):  # eq. 8, the shift weighting being zero beyond its reach
                    distance = (i - j + N // 2) % N - N // 2
                    if abs(distance) <= REACH:
                        expected += weightings[b, k, j] * shifts[b, k, distance + REACH]
                assert found[b, k, i] == pytest.approx(expected)


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 2])
def test_a_one_hot_shift_moves_the_focus_by_exactly_that_many_slots(offset):
    weighting, shift = torch.zeros(1, 1, N), torch.zeros(1, 1, 2 * REACH + 1)
    weighting[..., 0] = shift[..., offset + REACH] = 1
    assert addressing.shift(weighting, shift).argmax().item() == offset % N


def test_sharpening_raises_to_a_power_and_renormalises():
    weightings, exponents = simplex(B, K, N), 1 + np.random.default_rng(3).random((B, K)) * 4
    found = addressing.sharpen(*tensors(weightings, exponents)).numpy()
    for b in range(B):
        for k in range(K):
            powers = np.array([weightings[b, k, n] ** exponents[b, k] for n in range(N)])
            np.testing.assert_allclose(found[b, k], powers / powers.sum(), rtol=1e-5)  # eq. 9


@pytest.mark.parametrize("gamma", [1.0, 30.0, 50.0])
def test_sharpened_weightings_never_vanish(gamma):
    weightings = torch.full((1, 2, 128), 1 / 128)
    weightings[0, 1] = 0
    weightings[0, 1, 5] = 1
    weightings.requires_grad_()
    sharp = addressing.sharpen(weightings, torch.full((1, 2), gamma))
    torch.testing.assert_close(sharp.sum(-1), torch.ones(1, 2))
    assert sharp[0, 1, 5] > 0.999
    sharp[0, 0, 0].backward()
    assert torch.isfinite(weightings.grad).all() and weightings.grad.abs().sum() > 0


def test_entropy_is_zero_on_one_slot_and_log2_of_n_over_all():
    weightings = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0, 0, 1, 0], [0.5, 0, 0, 0.5], [0.5, 0.25, 0.125, 0.125]])
    expected = torch.tensor([2, 0, 1, 1.75])
    torch.testing.assert_close(addressing.entropy(weightings), expected, atol=1e-5, rtol=0)


def test_reading_sums_slots_by_weight():
    memory, weightings = draw(B, N, M), simplex(B, K, N)
    found = addressing.read(*tensors(memory, weightings)).numpy()
    for b in range(B):
        for k in range(K):
            expected = np.zeros(M)
            for n in range(N):
                expected += weightings[b, k, n] * memory[b, n]  # eq. 2
            np.testing.assert_allclose(found[b, k], expected)


def test_writing_erases_then_adds_with_every_head():
    memory, weightings = draw(B, N, M), simplex(B, K, N)
    weightings[0, 0] = 0  # a head that writes nothing
    weightings[1, 1] = np.eye(N)[3]  # and one that writes all it has to one slot
    erases, adds = np.random.default_rng(4).random((B, K, M)), draw(B, K, M, seed=5)
    erases[1, 1] = 1
    found = addressing.write(*tensors(memory, weightings, erases, adds)).numpy()
    for b in range(B):
        for n in range(N):
            slot = memory[b, n].copy()
            for k in range(K):
                slot = slot * (1 - weightings[b, k, n] * erases[b, k])  # eq. 3
            for k in range(K):
                slot = slot + weightings[b, k, n] * adds[b, k]  # eq. 4
            np.testing.assert_allclose(found[b, n], slot)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(3, 12), st.integers(1, 5), st.integers(1, 3), st.floats(0.01, 20), st.integers(0, 99)
)
def test_weightings_stay_on_the_simplex(batch, slots, width, heads, strength, seed):
    generator = torch.Generator().manual_seed(seed)
    memory = 3 * torch.randn(batch, slots, width, generator=generator)
    keys = 3 * torch.randn(batch, heads, width, generator=generator)
    content = addressing.content_weighting(memory, keys, torch.full((batch, heads), strength))
    gated = addressing.interpolate(content, content.roll(1, -1), torch.rand(batch, heads, generator=generator))
    shifts = torch.softmax(3 * torch.randn(batch, heads, 3, generator=generator), -1)
    final = addressing.sharpen(addressing.shift(gated, shifts), 1 + torch.full((batch, heads), strength))
    for weightings in (content, gated, final):
        assert (weightings >= 0).all()
        torch.testing.assert_close(weightings.sum(-1), torch.ones(batch, heads))


def test_gradients_equal_finite_differences():
    memory, keys, strengths = tensors(draw(1, 5, 3), draw(1, 2, 3), np.abs(draw(1, 2)))
    shifts, erases, adds = tensors(simplex(1, 2, 3), np.random.default_rng(0).random((1, 2, 3)), draw(1, 2, 3, seed=9))

    def step(memory, keys, strengths, shifts, erases, adds):
        content = addressing.content_weighting(memory, keys, strengths)
        weightings = addressing.sharpen(addressing.shift(content, shifts), 1 + strengths)
        written = addressing.write(memory, weightings, erases, adds)
        return addressing.read(written, weightings)

    inputs = [each.requires_grad_() for each in (memory, keys, strengths, shifts, erases, adds)]
    assert torch.autograd.gradcheck(step, inputs)
