"""The gated delta rule against plain loops over the paper's equations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.cores.gated_delta import LEAST_LOG_DECAY, Rule, delta_chunks, delta_step
from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError

SHAPES = st.tuples(st.integers(1, 11), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4), st.integers(0, 999))


def random_rule(shape, reset_rate=0.3) -> tuple[Rule, torch.Tensor, torch.Tensor]:
    """A rule, a memory and resets; some keys are alike, some decays almost 0 or 1, some rates 1."""
    steps, batch, heads, width, seed = shape
    torch.manual_seed(seed)
    vectors = torch.randn(3, steps, batch, heads, width, dtype=torch.float64)
    keys = torch.nn.functional.normalize(vectors[1], dim=-1)
    keys[::3] = keys[:1].clone()
    rates, decays = torch.rand(2, steps, batch, heads, dtype=torch.float64)
    rates[::4], decays[::5] = 1.0, 1.0
    decays[3::5] = 1e-8
    memory = torch.randn(batch, heads, width, width, dtype=torch.float64)
    rule = Rule(vectors[0], keys, vectors[2], rates, decays.log())
    return rule, memory, torch.rand(steps, batch) < reset_rate


def loop(rule: Rule, memory: torch.Tensor, resets: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Equation 10 of the paper, element by element: S_t = S_{t-1} (alpha (I - beta k k^T)) + beta v k^T, o = S q."""
    queries, keys, values, rates, log_decays = (each.numpy() for each in rule)
    outputs, memories = np.zeros_like(queries), memory.transpose(2, 3).numpy().copy()  # S, from keys to values
    for step, sequence, head in np.ndindex(queries.shape[:3]):
        place = step, sequence, head
        if resets[step, sequence]:
            memories[sequence, head] = 0
        erase = np.eye(queries.shape[3]) - rates[place] * np.outer(keys[place], keys[place])
        write = rates[place] * np.outer(values[place], keys[place])
        memories[sequence, head] = np.exp(log_decays[place]) * memories[sequence, head] @ erase + write
        outputs[place] = memories[sequence, head] @ queries[place]
    return outputs, memories.swapaxes(2, 3)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(1, 12))
def test_chunks_of_any_length_equal_the_papers_loop_with_resets_anywhere(shape, chunk):
    rule, memory, resets = random_rule(shape)
    found = delta_chunks(rule, memory, resets.cumsum(0), chunk)
    for expected, each in zip(loop(rule, memory, resets), found, strict=True):
        np.testing.assert_allclose(each.numpy(), expected, rtol=1e-9, atol=1e-11)


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_steps_equal_the_papers_loop(shape):
    rule, memory, resets = random_rule(shape, reset_rate=0.0)
    expected_outputs, expected_memory = loop(rule, memory, resets)
    for step in range(len(resets)):
        output, memory = delta_step(Rule(*(each[step : step + 1] for each in rule)), memory)
        np.testing.assert_allclose(output[0].numpy(), expected_outputs[step], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(memory.numpy(), expected_memory, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("chunk", [2, 3, 7])
def test_gradients_of_chunks_equal_finite_differences_with_resets_inside(chunk):
    rule, memory, _ = random_rule((7, 2, 1, 2, 5))
    resets = torch.zeros(7, 2, dtype=torch.bool)
    resets[0, 1] = resets[2, 0] = resets[4, 1] = resets[5, 1] = True
    wanted = [each.requires_grad_() for each in (*rule, memory)]
    assert torch.autograd.gradcheck(lambda *all: delta_chunks(Rule(*all[:5]), all[5], resets.cumsum(0), chunk), wanted)


def test_no_gradient_reaches_an_earlier_episode_or_the_memory_before_it():
    rule, memory, _ = random_rule((9, 1, 1, 3, 1))
    resets = torch.zeros(9, 1, dtype=torch.bool)
    resets[4] = True
    wanted = [each.requires_grad_() for each in (*rule, memory)]
    outputs, after = delta_chunks(rule, memory, resets.cumsum(0), chunk=6)
    gradients = torch.autograd.grad(outputs[4:].sum() + after.sum(), wanted)
    for gradient in gradients[:5]:
        assert gradient[:4].abs().max() < 1e-14 < 1e-3 < gradient[5:].abs().max()
    assert not gradients[5].any()


@pytest.mark.parametrize("log_decay", [0.0, -1e-4, LEAST_LOG_DECAY])
def test_long_sequences_of_the_strongest_and_the_weakest_decay_are_accurate(log_decay):
    """float32 against the loop in float64: products of decays over a chunk neither overflow nor lose digits."""
    rule, memory, resets = random_rule((256, 1, 1, 4, 3), reset_rate=0.02)
    decays = torch.full_like(rule.log_decays, log_decay)
    decays[::7] = -1e-3  # such steps lie between the others, whose sums are large
    rule = rule._replace(log_decays=decays)
    expected, _ = loop(rule, memory, resets)
    single = Rule(*(each.float().requires_grad_() for each in rule))
    found, _ = delta_chunks(single, memory.float(), resets.cumsum(0))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-3, atol=2e-4)
    found.square().sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in single)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 999))
def test_a_sequence_of_many_chunks_equals_its_steps_in_every_layer(seed):
    torch.manual_seed(seed)
    core = make_core("gated_delta", 3, hidden_size=5, heads=2, width=3, layers=2).double()
    inputs, resets = torch.randn(75, 2, 3, dtype=torch.float64), torch.rand(75, 2) < 0.05
    state = core.initial_state(2)
    outputs, after = core(inputs, state, resets)
    for step in range(75):
        output, state = core(inputs[step : step + 1], state, resets[step : step + 1])
        torch.testing.assert_close(output[0], outputs[step])
    torch.testing.assert_close(state, after)


def test_the_layer_is_the_papers_block_in_numpy():
    """Projections, causal convolution, SiLU, normalised keys and queries, gates, gated norm and residual, by hand."""
    torch.manual_seed(2)
    core = make_core("gated_delta", 3, hidden_size=4, heads=2, width=3, convolution=3).double()
    inputs = torch.randn(6, 1, 3, dtype=torch.float64)
    found, _ = core(inputs, core.initial_state(1))
    layer = core.stack[0]
    weight = {name: each.detach().numpy() for name, each in core.named_parameters()}

    def silu(x):
        return x / (1 + np.exp(-x))

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = inputs[:, 0].numpy() @ weight["embed.weight"].T + weight["embed.bias"]
    projected = norm(x) @ weight["stack.0.project.weight"].T
    mixed, gates, rates, times = np.split(projected, np.cumsum(layer.sizes)[:-1], axis=1)
    kernel, memory = weight["stack.0.kernel"], np.zeros((2, 3, 3))
    for t in range(6):
        convolved = silu(sum(kernel[lag] * mixed[t - lag] for lag in range(3) if lag <= t)).reshape(3, 2, 3)
        read = []
        for head in range(2):
            query, key = (vector / np.sqrt(vector @ vector + 1e-6) for vector in convolved[:2, head])
            alpha = np.exp(
                -np.exp(weight["stack.0.log_rates"][head])
                * np.log1p(np.exp(times[t, head] + weight["stack.0.time_bias"][head]))
            )
            beta = 1 / (1 + np.exp(-rates[t, head]))
            memory[head] = alpha * memory[head] @ (np.eye(3) - beta * np.outer(key, key))
            memory[head] += beta * np.outer(convolved[2, head], key)
            read.append(norm(memory[head] @ query))
        out = x[t] + (np.concatenate(read) * silu(gates[t])) @ weight["stack.0.output.weight"].T
        np.testing.assert_allclose(found[t, 0].detach().numpy(), norm(out), rtol=1e-8)


def test_initial_decays_span_the_range_of_the_paper():
    torch.manual_seed(0)
    core = make_core("gated_delta", 3, heads=500, width=1)
    layer = core.stack[0]
    time_steps = torch.nn.functional.softplus(layer.time_bias)
    assert 1e-3 * 0.999 <= time_steps.min() < 2e-3 and 0.05 < time_steps.max() <= 0.1 * 1.001
    rates = layer.log_rates.exp()
    assert 1 <= rates.min() < 2 and 15 < rates.max() <= 16.001


def test_unpack_gives_each_layers_memory_and_recent_projections():
    core = make_core("gated_delta", 3, hidden_size=5, heads=2, width=3, layers=4, convolution=3)
    memory, recent = core.unpack(core(torch.randn(5, 2, 3), core.initial_state(2))[1])
    assert memory.shape == (2, 4, 2, 3, 3) and recent.shape == (2, 4, 2, 18)
    assert memory.any() and recent.any()


@pytest.mark.parametrize("key", ["hidden_size", "heads", "width", "layers", "convolution"])
def test_sizes_below_one_are_named(key):
    with pytest.raises(InputError, match=f"{key} = 0: must be an integer of at least 1"):
        make_core("gated_delta", 3, **{key: 0})
