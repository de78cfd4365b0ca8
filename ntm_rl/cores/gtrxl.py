"""The Gated Transformer-XL: Parisotto et al. (2020), "Stabilizing Transformers for RL", arXiv:1910.06764."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import CoreStep, MemoryCore
from ntm_rl.cores.devices import full_precision
from ntm_rl.cores.episodes import episode_numbers, poison, remove_non_finite
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.registry import register_core
from ntm_rl.kernels.fused import can_step, is_fused, lay_out

INITIAL_GATE_BIAS = 2.0  # a layer starts near the identity: the paper's b_g
LONGEST_PERIOD = 10_000.0  # of the sinusoids of distances, as in "Attention is all you need", section 3.5
BEFORE_EPISODE = -1  # episode number of empty rows


class GtrxlState(NamedTuple):
    """Parts of the state.

    Attributes:
        filled: Number of steps in the window, `[B, 1]`; they are its last rows.
        window: Each layer's inputs in the last steps, `[B, layers, window, hidden]`.
    """

    filled: Tensor
    window: Tensor


class GruGate(nn.Module):
    """A gate in place of a residual connection, in the form of a gated recurrent unit (section 3.2)."""

    def __init__(self, size: int):
        super().__init__()
        self.from_update = nn.Linear(size, 3 * size, bias=False)  # W_r, W_z, W_g
        self.from_stream = nn.Linear(size, 2 * size, bias=False)  # U_r, U_z
        self.from_reset = nn.Linear(size, size, bias=False)  # U_g
        self.bias = nn.Parameter(torch.full((size,), INITIAL_GATE_BIAS))

    def step_weights(self) -> tuple[Tensor, ...]:
        """Returns the weights in the order of `Gate` (gtrxl.h)."""
        return *self.matrices(), self.bias

    def matrices(self) -> list[Tensor]:
        """Returns the weights of matrix products in the order of `Gate`."""
        return [self.from_update.weight, self.from_stream.weight, self.from_reset.weight]

    def forward(self, stream: Tensor, update: Tensor) -> Tensor:
        """Mixes the stream x and a sublayer's output y, both `[..., size]`."""
        reset, gate, candidate = self.from_update(update).chunk(3, dim=-1)
        stream_reset, stream_gate = self.from_stream(stream).chunk(2, dim=-1)
        reset = torch.sigmoid(reset + stream_reset)
        gate = torch.sigmoid(gate + stream_gate - self.bias)
        candidate = torch.tanh(candidate + self.from_reset(reset * stream))
        return torch.lerp(stream, candidate, gate)


class RelativeAttention(nn.Module):
    """Multi-head attention over a window of past steps by content and distance (Dai et al. 2019, section 3.3).

    The score of a step at distance d is (q + u) . k + (q + v) . W_R s(d), with s the sinusoids of d.
    """

    def __init__(self, size: int, heads: int, width: int):
        super().__init__()
        self.heads, self.width = heads, width
        inner = heads * width
        self.query = nn.Linear(size, inner, bias=False)
        self.key = nn.Linear(size, inner, bias=False)
        self.value = nn.Linear(size, inner, bias=False)
        self.distance = nn.Linear(size, inner, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, width))  # u
        self.distance_bias = nn.Parameter(torch.zeros(heads, width))  # v
        self.merge = nn.Linear(inner, size, bias=False)

    def forward(self, context: Tensor, visible: Tensor, distances: Tensor) -> Tensor:
        """Lets each of the last T steps attend to the W steps before it and to itself.

        Args:
            context: `[B, W + T, size]`.
            visible: Whether a step may attend to another, `[B, 1, T, W + T]`.
            distances: Sinusoids of the distances from W to 0, `[W + 1, size]`.

        Returns:
            `[B, T, size]`.
        """
        steps, scale = visible.shape[2], 1 / math.sqrt(self.width)
        queries = self._by_head(self.query(context[:, -steps:]))  # [B, K, T, M]
        by_content = scale * (queries + self.content_bias.unsqueeze(1))
        by_distance = scale * (queries + self.distance_bias.unsqueeze(1))
        distance_keys = self.distance(distances).unflatten(1, (self.heads, self.width))  # [W + 1, K, M]
        scores = _to_positions(torch.einsum("bktm,dkm->bktd", by_distance, distance_keys))  # [B, K, T, W + T]
        scores = scores.masked_fill(~visible, -torch.inf)
        attend = self._attend_once if steps == 1 else self._attend
        merged: Tensor = self.merge(attend(context, by_content, scores))
        return merged

    def _attend(self, context: Tensor, queries: Tensor, scores: Tensor) -> Tensor:
        scores = scores + queries @ self._by_head(self.key(context)).mT
        means = torch.softmax(scores, dim=3) @ self._by_head(self.value(context))
        return means.transpose(1, 2).flatten(2)

    def _attend_once(self, context: Tensor, queries: Tensor, scores: Tensor) -> Tensor:
        """Attention of one step: projects its query and mean instead of all W + 1 steps."""
        key, value = (layer.weight.unflatten(0, (self.heads, self.width)) for layer in (self.key, self.value))
        projected = torch.einsum("bktm,kms->bks", queries, key)
        scores = scores.squeeze(2) + projected @ context.mT  # [B, K, W + 1]
        means = torch.softmax(scores, dim=2) @ context
        return torch.einsum("bks,kms->bkm", means, value).flatten(1).unsqueeze(1)

    def _by_head(self, steps: Tensor) -> Tensor:
        by_head: Tensor = steps.unflatten(2, (self.heads, self.width))
        return by_head.transpose(1, 2)


def _to_positions(scores: Tensor) -> Tensor:
    """Shifts row t of scores by distance `[..., T, W + 1]` right by t: scores by position `[..., T, W + T]`."""
    steps, distances = scores.shape[-2:]
    total = distances + steps - 1
    moved: Tensor = F.pad(scores, (0, steps)).flatten(-2)[..., : steps * total].unflatten(-1, (steps, total))
    return moved


def sinusoids(window: int, like: Tensor, size: int) -> Tensor:
    """Returns the sinusoids of the distances from `window` to 0, `[window + 1, size]`."""
    distances = torch.arange(window, -1, -1, device=like.device, dtype=like.dtype)
    half = -(-size // 2)
    exponents = torch.arange(half, device=like.device, dtype=like.dtype) / half
    angles = distances.unsqueeze(1) * LONGEST_PERIOD**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :size]


@cache
def _cached_sinusoids(window: int, dtype: torch.dtype, size: int) -> Tensor:
    return sinusoids(window, torch.empty(0, dtype=dtype), size)


class _Layer(nn.Module):
    """Norm, attention, gate; norm, perceptron, gate (the paper's figure 1, right)."""

    def __init__(self, size: int, heads: int, width: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = RelativeAttention(size, heads, width)
        self.attention_gate = GruGate(size)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size), nn.ReLU()
        )
        self.perceptron_gate = GruGate(size)

    def step_weights(self, distances: Tensor) -> list[Tensor]:
        """Returns the weights in the order of `TransformerLayer` (gtrxl.h), for sinusoids `[W + 1, size]`."""
        attention, norm = self.attention, self.attention_norm
        wide_norm, wide, narrow = (self.perceptron[number] for number in (0, 1, 3))
        return [
            *(norm.weight, norm.bias, attention.query.weight, attention.key.weight, attention.value.weight),
            *(attention.content_bias, attention.distance_bias, attention.merge.weight),
            *self.attention_gate.step_weights(),
            *(weight for module in (wide_norm, wide, narrow) for weight in (module.weight, module.bias)),
            *self.perceptron_gate.step_weights(),
            attention.distance(distances),
        ]

    def matrices(self) -> list[Tensor]:
        """Returns the weights of matrix products in the order of `TransformerLayer`."""
        attention, perceptron = self.attention, cast(Any, self.perceptron)
        of_attention = [attention.query.weight, attention.merge.weight, *self.attention_gate.matrices()]
        return [*of_attention, perceptron[1].weight, perceptron[3].weight, *self.perceptron_gate.matrices()]

    def forward(self, context: Tensor, visible: Tensor, distances: Tensor) -> Tensor:
        stream = context[:, -visible.shape[2] :]
        attended = F.relu(self.attention(self.attention_norm(context), visible, distances))
        stream = self.attention_gate(stream, attended)
        output: Tensor = self.perceptron_gate(stream, self.perceptron(stream))
        return output


@register_core("gtrxl")
class Gtrxl(MemoryCore):
    """Gated Transformer-XL: each step attends to the `window` steps before it, within its episode.

    As in Transformer-XL, the state contains each layer's inputs in these steps; unlike there, gradients flow into it if
    it requires them. With L layers a step depends on at most L windows of past steps.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Features between the layers, and of the output."] = 64,
        heads: Annotated[int, "Attention heads."] = 4,
        width: Annotated[int, "Width of a head's queries, keys and values."] = 16,
        layers: Annotated[int, "Stacked layers."] = 2,
        window: Annotated[int, "Past steps to which a step attends in each layer."] = 64,
    ):
        super().__init__()
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, heads=heads)
        require_at_least(1, width=width, layers=layers, window=window)
        self.input_size, self.output_size = int(input_size), int(hidden_size)
        self.layers, self.window = int(layers), int(window)
        self.heads, self.width = int(heads), int(width)
        self.layout = StateLayout(GtrxlState, filled=(1,), window=(self.layers, self.window, self.output_size))
        self.embed = nn.Linear(self.input_size, self.output_size)
        self.stack = nn.ModuleList(_Layer(self.output_size, self.heads, self.width) for _ in range(self.layers))

    def activations(self, state: Tensor) -> Mapping[str, Tensor]:
        """See `MemoryCore.activations`: each layer's input in the last step."""
        newest = self.unpack(state).window[:, :, -1]
        return {f"layer {number}": layer for number, layer in enumerate(newest.unbind(1), start=1)}

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        if can_step(inputs):
            return self._step(inputs, state, resets)
        episodes = episode_numbers(inputs, resets)
        if len(inputs) == 1:
            return self._run_layers(inputs, state, episodes)
        inputs, state, poisoned = remove_non_finite(inputs, state, episodes)
        outputs, after = self._run_layers(inputs, state, episodes)
        after = torch.cat([after[:, :2], poison(after[:, 2:], poisoned[-1].unsqueeze(1))], dim=1)
        return poison(outputs, poisoned.unsqueeze(2)), after

    def make_step(self) -> CoreStep:
        """See `MemoryCore.make_step`."""
        weight, stack = self.embed.weight, cast(Any, self.stack)
        if not is_fused("auto", weight.device) or weight.dtype != torch.float32:
            return self._run
        matrices = [weight, *(matrix for layer in stack for matrix in layer.matrices())]
        with torch.no_grad(), full_precision(weight.device):
            fixed = (self._step_weights(), self.heads, self.width, lay_out(matrices))
        step = torch.ops.ntm_rl.gtrxl_step.default
        return lambda inputs, state, resets: step(inputs, state, resets, *fixed)

    def _step(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        step = torch.ops.ntm_rl.gtrxl_step.default
        found: tuple[Tensor, Tensor] = step(inputs, state, resets, self._step_weights(), self.heads, self.width)
        return found

    def _step_weights(self) -> list[Tensor]:
        """Returns all weights in the kernel's order."""
        distances = _cached_sinusoids(self.window, self.embed.weight.dtype, self.output_size)
        stack: Any = self.stack
        of_layers = [weight for layer in stack for weight in layer.step_weights(distances)]
        return [self.embed.weight, self.embed.bias, *of_layers]

    def _run_layers(self, inputs: Tensor, state: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor]:
        before, episodes = self.layout.unpack(state), episodes.t()
        place = torch.arange(self.window + episodes.shape[1], device=inputs.device)
        empty = place[: self.window] < self.window - before.filled.round()  # [B, W]
        numbers = torch.cat([torch.where(empty, BEFORE_EPISODE, 0), episodes], dim=1)  # [B, W + T]
        past = place - place[: episodes.shape[1]].unsqueeze(1)  # from 0, the farthest visible, to W, the step itself
        near = (past >= 0) & (past <= self.window)
        visible = (near & (numbers.unsqueeze(1) == episodes.unsqueeze(2))).unsqueeze(1)  # [B, 1, T, W + T]
        hidden = (numbers[:, : self.window] != episodes[:, :1]).unsqueeze(2)  # rows not of the first step's episode
        kept = numbers[:, -self.window :] == numbers[:, -1:]  # rows of the last step's episode
        distances = sinusoids(self.window, state, self.output_size)

        x, windows = self.embed(inputs).transpose(0, 1), []
        for layer, rows in zip(self.stack, before.window.unbind(1), strict=True):
            context = torch.cat([rows.masked_fill(hidden, 0), x], dim=1)
            windows.append(context[:, -self.window :].masked_fill(~kept.unsqueeze(2), 0))
            x = layer(context, visible, distances)
        filled = kept.sum(1, keepdim=True).to(state.dtype)
        return x.transpose(0, 1), self.layout.pack([filled, *windows])
