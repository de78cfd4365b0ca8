"""The gated delta rule: Yang, Kautz and Hatamizadeh (2024), "Gated Delta Networks", arXiv:2412.06464."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import CoreStep, MemoryCore
from ntm_rl.cores.episodes import episode_numbers, poison, remove_non_finite
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.registry import register_core
from ntm_rl.cores.short_convolution import short_convolution
from ntm_rl.kernels.fused import can_step, is_fused, lay_out

CHUNK = 32  # steps that are computed in parallel
NORM_EPSILON = 1e-6  # added to a key's squared norm, so that a zero key has a gradient
# Bounds the decay of a step to 2e-9, so that sums of logarithms over a chunk stay accurate.
LEAST_LOG_DECAY = -20.0
# Ranges of the initial time steps and decay rates (Gu and Dao 2023, section 3.6).
SLOWEST, FASTEST = 1e-3, 0.1
INITIAL_RATES = (1.0, 16.0)


class GatedDeltaState(NamedTuple):
    """Parts of the state.

    Attributes:
        memory: Each head's matrix from keys to values, transposed (S^T), `[B, layers, heads, M, M]`.
        recent: Keys, queries and values of the last steps before the convolution, `[B, layers, C - 1, 3 * heads * M]`.
    """

    memory: Tensor
    recent: Tensor


class Rule(NamedTuple):
    """Inputs of the delta rule for T steps, B sequences and K heads.

    Attributes:
        queries: `[T, B, K, M]`.
        keys: `[T, B, K, M]`, of norm at most 1.
        values: `[T, B, K, M]`.
        rates: beta, the share of a key's value that is replaced, `[T, B, K]` in (0, 1).
        log_decays: log alpha, `[T, B, K]`, not above 0.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    rates: Tensor
    log_decays: Tensor


def delta_step(rule: Rule, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Runs one step (T = 1) of the gated delta rule (equation 10).

    Args:
        rule: Inputs of the step.
        memory: S^T, `[B, K, M, M]`.

    Returns:
        Outputs `[1, B, K, M]` and the new memory.
    """
    queries, keys, values = (each[0].unsqueeze(3) for each in rule[:3])  # [B, K, M, 1]
    rates, decays = rule.rates[0].unsqueeze(2), rule.log_decays[0].exp()
    memory = memory * decays.view(*decays.shape, 1, 1)
    # Sums of products are faster than matrix products for many small matrices.
    changes = rates * (values.squeeze(3) - (keys * memory).sum(2))  # [B, K, M]
    memory = memory + keys * changes.unsqueeze(2)
    return (queries * memory).sum(2).unsqueeze(0), memory


def delta_chunks(rule: Rule, memory: Tensor, episodes: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Runs T steps of the gated delta rule in chunks of C (section 3.3), with resets at any step.

    Within a chunk the memory is S_t = gamma_t S_0 + sum over i <= t of gamma_t / gamma_i u_i k_i^T, gamma being the
    cumulative product of alpha. Each u_t depends on the earlier u_i: one triangular system. The decay is 0 between
    steps of different episodes, and between a step and a memory from before its episode.

    Args:
        rule: Inputs of T steps.
        memory: S^T before the first step, `[B, K, M, M]`.
        episodes: Episode number of each step, `[T, B]`, from `episode_numbers`.
        chunk: C.

    Returns:
        Outputs `[T, B, K, M]` and the memory after the last step.
    """
    chunk = min(chunk, len(episodes))
    queries, keys, values, rates, log_decays = (_cut(each, chunk) for each in rule)
    rates = rates.unsqueeze(4)
    numbers = _cut(episodes.unsqueeze(2), chunk, repeat_last=True)  # [n, B, 1, C]
    last = numbers[..., -1:]
    before = torch.cat([torch.zeros_like(last[:1]), last[:-1]])  # episode of the step before each chunk
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=keys.device).triu(1)
    apart = later | (numbers.unsqueeze(4) != numbers.unsqueeze(3))  # [n, B, 1, C, C]
    # log gamma, [n, B, K, C], within each episode: the gradient of other episodes is exactly 0.
    log_products = log_decays @ (~apart).squeeze(2).to(log_decays.dtype).mT
    from_start = (log_products + _barrier(numbers != before, keys)).exp().unsqueeze(4)  # gamma_t
    between = (log_products.unsqueeze(4) - log_products.unsqueeze(3) + _barrier(apart, keys)).exp()  # gamma_t / gamma_i

    writing = rates * keys
    coupling = between * (writing @ keys.transpose(3, 4))  # the solver uses only the part below the diagonal
    known = torch.cat([rates * values, from_start * writing], dim=4)
    solved = torch.linalg.solve_triangular(coupling, known, upper=False, unitriangular=True)
    fresh, taken = solved.chunk(2, dim=4)  # u = fresh - taken S_0^T
    scores = between * (queries @ keys.transpose(3, 4))
    queries, to_end = from_start * queries, between[..., -1, :].unsqueeze(4) * keys

    outputs = []
    for n in range(len(keys)):
        changes = fresh[n] - taken[n] @ memory  # u, [B, K, C, M]
        outputs.append(queries[n] @ memory + scores[n] @ changes)
        memory = from_start[n, :, :, -1:] * memory + to_end[n].transpose(2, 3) @ changes
    return torch.stack(outputs).permute(0, 3, 1, 2, 4).flatten(0, 1)[: len(episodes)], memory


def _cut(steps: Tensor, chunk: int, repeat_last: bool = False) -> Tensor:
    """`[T, B, K, ...]` -> `[n, B, K, chunk, ...]`; the last chunk is padded with 0, which changes nothing."""
    missing = -len(steps) % chunk
    if missing:
        fill = steps[-1:].expand(missing, *steps.shape[1:])
        steps = torch.cat([steps, fill if repeat_last else torch.zeros_like(fill)])
    chunks: Tensor = steps.unflatten(0, (-1, chunk))
    return chunks.movedim(1, 3).contiguous()


def _barrier(where: Tensor, like: Tensor) -> Tensor:
    """Returns -inf where the mask is set, else 0: added to logarithms, faster than filling those of all heads."""
    return torch.zeros(where.shape, dtype=like.dtype, device=like.device).masked_fill(where, -torch.inf)


class _Layer(nn.Module):
    """One gated delta net: norm, projections, short convolution, delta rule, gated norm, projection, residual."""

    def __init__(self, hidden_size: int, heads: int, width: int, convolution: int):
        super().__init__()
        self.heads, self.width = heads, width
        inner = heads * width
        self.norm = nn.LayerNorm(hidden_size)
        # Of queries, keys and values; output gates; rates; time steps.
        self.sizes = (3 * inner, inner, heads, heads)
        self.project = nn.Linear(hidden_size, sum(self.sizes), bias=False)
        bound = 1 / math.sqrt(convolution)
        self.kernel = nn.Parameter(torch.empty(convolution, 3 * inner).uniform_(-bound, bound))
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Linear(inner, hidden_size, bias=False)
        self.log_rates = nn.Parameter(torch.empty(heads).uniform_(*INITIAL_RATES).log_())
        time_steps = torch.empty(heads).uniform_(math.log(SLOWEST), math.log(FASTEST)).exp_()
        self.time_bias = nn.Parameter(time_steps + torch.log(-torch.expm1(-time_steps)))  # inverse of softplus

    def step_weights(self) -> tuple[Tensor, ...]:
        """Returns the weights in the order of `DeltaLayer` (gated_delta.h)."""
        norms = self.output_norm.weight, self.output_norm.bias
        inner = self.project.weight, self.kernel, *norms, self.output.weight, self.log_rates, self.time_bias
        return self.norm.weight, self.norm.bias, *inner

    def forward(self, x: Tensor, memory: Tensor, recent: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the layer's outputs `[T, B, hidden]`, the memory and the recent projections after the last step.

        If T = 1, the memory must belong to the step's episode.
        """
        mixed, gates, rates, time_steps = self.project(self.norm(x)).split(self.sizes, dim=2)
        mixed, recent = short_convolution(mixed, recent, episodes, self.kernel)
        directions, values = F.silu(mixed).unflatten(2, (3, self.heads, self.width)).split([2, 1], dim=2)
        queries, keys = _normalize(directions).unbind(2)  # [T, B, K, M]
        log_decays = -self.log_rates.exp() * F.softplus(time_steps + self.time_bias)
        rule = Rule(
            queries,
            keys,
            values.squeeze(2),
            torch.sigmoid(rates),
            log_decays.clamp(min=LEAST_LOG_DECAY),
        )
        read, memory = delta_step(rule, memory) if len(x) == 1 else delta_chunks(rule, memory, episodes)
        read = self.output_norm(read).flatten(2)  # [T, B, K * M]
        return x + self.output(read * F.silu(gates)), memory, recent


@register_core("gated_delta")
class GatedDelta(MemoryCore):
    """Gated delta net: in each head a matrix from keys to values that forgets (alpha), erases and writes (beta).

    S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, o_t = S_t q_t. A single step computes this
    directly; a sequence is computed in chunks, whose steps run in parallel.
    """

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Features between the layers, and of the output."] = 128,
        heads: Annotated[int, "Heads K, each with a memory matrix."] = 4,
        width: Annotated[int, "Width M of a head's queries, keys and values."] = 16,
        layers: Annotated[int, "Stacked layers."] = 1,
        convolution: Annotated[int, "Steps over which queries, keys and values are convolved; 1: no convolution."] = 4,
    ):
        super().__init__()
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, heads=heads)
        require_at_least(1, width=width, layers=layers, convolution=convolution)
        self.input_size, self.output_size, self.layers = int(input_size), int(hidden_size), int(layers)
        self.heads, self.width = int(heads), int(width)
        self.layout = StateLayout(
            GatedDeltaState,
            memory=(layers, heads, width, width),
            recent=(layers, convolution - 1, 3 * heads * width),
        )
        self.embed = nn.Linear(self.input_size, self.output_size)
        self.stack = nn.ModuleList(
            _Layer(self.output_size, self.heads, self.width, int(convolution)) for _ in range(self.layers)
        )
        self.norm = nn.LayerNorm(self.output_size)

    def activations(self, state: Tensor) -> Mapping[str, Tensor]:
        """See `MemoryCore.activations`: each layer's matrices from keys to values."""
        memory = self.unpack(state).memory
        return {f"layer {number}": layer.flatten(1) for number, layer in enumerate(memory.unbind(1), start=1)}

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        if can_step(inputs):
            step = torch.ops.ntm_rl.gated_delta_step.default
            stepped: tuple[Tensor, Tensor] = step(inputs, state, resets, self._step_weights(), self.heads, self.width)
            return stepped
        episodes = episode_numbers(inputs, resets)
        if len(inputs) == 1:
            return self._run_layers(inputs, state.masked_fill(episodes.t() > 0, 0), episodes)
        inputs, state, poisoned = remove_non_finite(inputs, state, episodes)
        outputs, after = self._run_layers(inputs, state, episodes)
        after = torch.cat([after[:, :1], poison(after[:, 1:], poisoned[-1].unsqueeze(1))], dim=1)
        return poison(outputs, poisoned.unsqueeze(2)), after

    def make_step(self) -> CoreStep:
        """See `MemoryCore.make_step`."""
        weights = self._step_weights()
        if not is_fused("auto", weights[0].device) or weights[0].dtype != torch.float32:
            return self._run
        step, stack = torch.ops.ntm_rl.gated_delta_step.default, cast(Any, self.stack)
        of_layers = [matrix for layer in stack for matrix in (layer.project.weight, layer.output.weight)]
        fixed = (weights, self.heads, self.width, lay_out([self.embed.weight, *of_layers]))
        return lambda inputs, state, resets: step(inputs, state, resets, *fixed)

    def _step_weights(self) -> list[Tensor]:
        """Returns all weights in the kernel's order."""
        stack: Any = self.stack
        of_layers = [weight for layer in stack for weight in layer.step_weights()]
        return [self.embed.weight, self.embed.bias, *of_layers, self.norm.weight, self.norm.bias]

    def _run_layers(self, inputs: Tensor, state: Tensor, episodes: Tensor) -> tuple[Tensor, Tensor]:
        x, before = self.embed(inputs), self.layout.unpack(state)
        memories, recents = [], []
        for layer, memory, recent in zip(self.stack, before.memory.unbind(1), before.recent.unbind(1), strict=True):
            x, memory, recent = layer(x, memory, recent, episodes)
            memories.append(memory)
            recents.append(recent)
        return self.norm(x), self.layout.pack([*memories, *recents])


def _normalize(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + NORM_EPSILON)
