"""The Gated Transformer-XL against plain loops, and the range of its attention."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_rl.cores.gtrxl import GruGate, RelativeAttention, sinusoids
from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError
from references import sigmoid


def build(**options):
    torch.manual_seed(0)
    return make_core("gtrxl", 3, **{"hidden_size": 5, "heads": 2, "width": 3, **options}).double()


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def gate_by_hand(weight, prefix, x, y):
    """Equations of section 3.2, "Gated-Recurrent-Unit-type gating", of the paper."""
    w_r, w_z, w_g = np.split(weight[f"{prefix}.from_update.weight"], 3)
    u_r, u_z = np.split(weight[f"{prefix}.from_stream.weight"], 2)
    r = sigmoid(y @ w_r.T + x @ u_r.T)
    z = sigmoid(y @ w_z.T + x @ u_z.T - weight[f"{prefix}.bias"])
    h = np.tanh(y @ w_g.T + (r * x) @ weight[f"{prefix}.from_reset.weight"].T)
    return (1 - z) * x + z * h


def by_hand(core, inputs, resets) -> np.ndarray:
    """The whole network of one sequence `[T, I]` that starts with an empty window, step by step, head by head."""
    weight = {name: each.detach().numpy() for name, each in core.named_parameters()}
    size, (heads, width) = core.output_size, (core.stack[0].attention.heads, core.stack[0].attention.width)
    frequencies = 10_000.0 ** -(np.arange(-(-size // 2)) / -(-size // 2))
    x = inputs @ weight["embed.weight"].T + weight["embed.bias"]
    for layer in range(core.layers):
        at = f"stack.{layer}."
        normed, new = norm(x), np.zeros_like(x)
        for t in range(len(x)):
            begin = max([0, t - core.window, *(s for s in range(t + 1) if resets[s])])
            merged = []
            for head in range(heads):
                rows = slice(head * width, (head + 1) * width)
                w_q, w_k, w_v, w_r = (
                    weight[f"{at}attention.{name}.weight"][rows] for name in ("query", "key", "value", "distance")
                )
                query = w_q @ normed[t]
                scores = []
                for s in range(begin, t + 1):
                    angles = (t - s) * frequencies
                    place = w_r @ np.concatenate([np.sin(angles), np.cos(angles)])[:size]
                    by_content = (query + weight[f"{at}attention.content_bias"][head]) @ (w_k @ normed[s])
                    by_distance = (query + weight[f"{at}attention.distance_bias"][head]) @ place
                    scores.append((by_content + by_distance) / np.sqrt(width))
                weights = np.exp(scores - np.max(scores))
                merged.append(weights / weights.sum() @ (normed[begin : t + 1] @ w_v.T))
            seen = np.maximum(0, weight[f"{at}attention.merge.weight"] @ np.concatenate(merged))
            stream = gate_by_hand(weight, f"{at}attention_gate", x[t], seen)
            inner = np.maximum(0, weight[f"{at}perceptron.1.weight"] @ norm(stream) + weight[f"{at}perceptron.1.bias"])
            update = np.maximum(0, weight[f"{at}perceptron.3.weight"] @ inner + weight[f"{at}perceptron.3.bias"])
            new[t] = gate_by_hand(weight, f"{at}perceptron_gate", stream, update)
        x = new
    return x


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 2), st.floats(0, 0.5), st.integers(0, 999))
def test_the_network_is_the_papers_in_plain_loops_with_resets_anywhere(window, steps, layers, rate, seed):
    core = build(window=window, layers=layers)
    with torch.no_grad():
        for parameter in core.parameters():  # biases that begin with zeros, too
            parameter.add_(0.3 * torch.randn_like(parameter))
        for layer in core.stack:  # by_hand has norms without weights
            for each in (layer.attention_norm, layer.perceptron[0]):
                each.weight.fill_(1)
                each.bias.fill_(0)
    torch.manual_seed(seed)
    inputs, resets = torch.randn(steps, 2, 3, dtype=torch.float64), torch.rand(steps, 2) < rate
    found, _ = core(inputs, core.initial_state(2), resets)
    for b in range(2):
        expected = by_hand(core, inputs[:, b].numpy(), resets[:, b].numpy())
        np.testing.assert_allclose(found[:, b].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_attends_exactly_window_steps_back_in_each_layer_and_never_across_a_reset(layers):
    core = build(window=3, layers=layers)
    inputs = torch.randn(12, 1, 3, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(12, 1, dtype=torch.bool)

    def reaching(resets: torch.Tensor) -> list[int]:
        outputs, _ = core(inputs, core.initial_state(1), resets)
        (gradient,) = torch.autograd.grad(outputs[10].sum(), inputs)
        return gradient.abs().sum((1, 2)).nonzero().flatten().tolist()

    assert reaching(resets) == list(range(10 - 3 * layers, 11))
    resets[9] = True
    assert reaching(resets) == [9, 10]


def test_the_window_fills_up_slides_and_is_emptied_by_a_reset():
    core = build(window=3, layers=1)
    inputs, state = torch.randn(6, 1, 3, dtype=torch.float64), core.initial_state(1)
    embedded = core.embed(inputs)[:, 0]
    for step, filled in enumerate([1, 2, 3, 3, 1, 2]):
        resets = torch.tensor([[step == 4]])
        _, state = core(inputs[step : step + 1], state, resets)
        parts = core.unpack(state)
        assert parts.filled.item() == filled
        expected = torch.zeros(3, 5, dtype=torch.float64)
        expected[3 - filled :] = embedded[step + 1 - filled : step + 1]
        torch.testing.assert_close(parts.window[0, 0], expected)


def test_sequences_longer_than_many_windows_equal_their_steps_and_have_finite_gradients():
    core = build(window=4, layers=2)
    inputs, resets = torch.randn(250, 1, 3, dtype=torch.float64), torch.rand(250, 1) < 0.02
    outputs, after = core(inputs, core.initial_state(1), resets)
    state = core.initial_state(1)
    for step in range(250):
        output, state = core(inputs[step : step + 1], state, resets[step : step + 1])
        torch.testing.assert_close(output[0], outputs[step])
    torch.testing.assert_close(state, after)
    outputs.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in core.parameters())


def test_a_gate_starts_near_the_identity():
    torch.manual_seed(0)
    stream, update = torch.randn(2, 100, 64)
    gate = GruGate(64)
    kept = torch.nn.functional.cosine_similarity(gate(stream, update), stream, dim=1)
    assert kept.min() > 0.95


def test_attention_of_one_step_equals_the_last_of_many():
    torch.manual_seed(0)
    attention = RelativeAttention(6, heads=2, width=3).double()
    context, distances = torch.randn(2, 8, 6, dtype=torch.float64), sinusoids(4, torch.zeros(1).double(), 6)
    place = torch.arange(8) - torch.arange(4).unsqueeze(1)
    visible = ((place >= 0) & (place <= 4)).expand(2, 1, 4, 8)
    expected = attention(context, visible, distances)[:, -1:]
    found = attention(context[:, 3:], torch.ones(2, 1, 1, 5, dtype=torch.bool), distances)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("key", ["hidden_size", "heads", "width", "layers", "window"])
def test_sizes_below_one_are_named(key):
    with pytest.raises(InputError, match=f"{key} = 0: must be an integer of at least 1"):
        make_core("gtrxl", 3, **{key: 0})
