"""A Neural Turing Machine as a residual block: embedding, short convolution, NTM, projection, norm."""

import math
import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.access import MemoryAccess
from ntm_rl.cores.base import CoreStep, MemoryCore
from ntm_rl.cores.episodes import episode_numbers
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.ntm import Backend, MemoryInit, Ntm
from ntm_rl.cores.ntm_heads import Init
from ntm_rl.cores.registry import register_core
from ntm_rl.cores.short_convolution import short_convolution
from ntm_rl.kernels.block import run_block
from ntm_rl.kernels.fused import is_fused, lay_out
from ntm_rl.transforms import with_weights

WEIGHTS = (  # in the kernel's order
    *("embed.weight", "embed.bias", "embed_norm.weight", "embed_norm.bias", "kernel"),
    *("ntm.weight_input", "ntm.bias", "ntm.weight_feedback", "ntm.head_layer.weight", "ntm.head_layer.bias"),
    *("project.weight", "norm.weight", "norm.bias"),
)
# Part of PyTorch's range of initial biases. Without a bias the norm removes the size of an observation; a large one makes
# rare observations look like common ones at first, so that the policy does not explore at them.
EMBED_BIAS = 0.5
READ_EPSILON = 1e-4  # added to a read vector's mean square, so that an empty memory reads as about 0


class NtmBlockState(NamedTuple):
    """Parts of the state: those of `NtmState`, and the embedded inputs that the convolution still needs.

    Attributes:
        memory: `[B, N, M]`.
        weightings: `[B, K, N]`.
        reads: `[B, R, M]`.
        hidden: `[B, H]`.
        cell: `[B, H]`.
        recent: Embedded inputs of the last steps, `[B, C - 1, H]`.
    """

    memory: Tensor
    weightings: Tensor
    reads: Tensor
    hidden: Tensor
    cell: Tensor
    recent: Tensor


@register_core("ntm_block")
class NtmBlock(MemoryCore):
    """Neural Turing Machine between an embedding and a residual connection, as in the layers of gated delta nets.

    x = LayerNorm(embed(input)), z = SiLU(convolution of x over the last C steps), [h, r] = NTM(z), output =
    LayerNorm(x + project([h, RMSNorm(r)])), with a norm for each read head. The NTM is `Ntm`, by default with heads of
    several types (`init="mixed"`) and cells that begin with time constants up to `horizon` steps.
    """

    def __init__(
        self,
        input_size: int,
        *,
        slots: Annotated[int, "Memory slots N."] = 128,
        width: Annotated[int, "Width M of a slot."] = 16,
        read_heads: Annotated[int, "Read heads R."] = 4,
        write_heads: Annotated[int, "Write heads W."] = 1,
        hidden_size: Annotated[int, "Units H of the LSTM controller, of the embedding and of the output."] = 128,
        convolution: Annotated[int, "Steps C over which embedded inputs are convolved; 1: no convolution."] = 4,
        horizon: Annotated[int, "See the core `ntm`."] = 512,
        memory_init: Annotated[MemoryInit, "See the core `ntm`."] = "constant",
        init: Annotated[Init, "See the core `ntm`."] = "mixed",
        tape_logit: Annotated[float, "See the core `ntm`."] = 6.0,
        start_scale: Annotated[float, "See the core `ntm`."] = 30.0,
        backend: Annotated[Backend, "See the core `ntm`."] = "auto",
    ):
        super().__init__()
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, convolution=convolution)
        self.input_size, self.output_size = int(input_size), int(hidden_size)
        self.ntm = Ntm(
            self.output_size,
            slots=slots,
            width=width,
            read_heads=read_heads,
            write_heads=write_heads,
            hidden_size=self.output_size,
            horizon=horizon,
            memory_init=memory_init,
            init=init,
            tape_logit=tape_logit,
            start_scale=start_scale,
            backend=backend,
        )
        shapes = dict(zip(self.ntm.layout.parts._fields, self.ntm.layout.shapes, strict=True))
        self.layout = StateLayout(NtmBlockState, **shapes, recent=(convolution - 1, self.output_size))
        self.embed = nn.Linear(self.input_size, self.output_size)
        with torch.no_grad():
            self.embed.bias.mul_(EMBED_BIAS)
        self.embed_norm = nn.LayerNorm(self.output_size)
        bound = 1 / math.sqrt(convolution)
        self.kernel = nn.Parameter(torch.empty(convolution, self.output_size).uniform_(-bound, bound))
        self.project = nn.Linear(self.ntm.output_size, self.output_size, bias=False)
        self.norm = nn.LayerNorm(self.output_size)

    def unpack(self, state: Tensor) -> NtmBlockState:
        """Returns the parts of a flat state `[B, S]`; of a state before its first step, the initial ones."""
        of_ntm, recent = self._split(state)
        return NtmBlockState(*self.ntm.unpack(of_ntm), recent)

    def weightings(self, state: Tensor) -> Mapping[str, Tensor]:
        """See `MemoryCore.weightings`."""
        return self.ntm.weightings(self._split(state)[0])

    def memory(self, state: Tensor) -> Tensor:
        """See `MemoryCore.memory`."""
        return self.ntm.memory(self._split(state)[0])

    def access(self, before: Tensor, after: Tensor) -> MemoryAccess:
        """See `MemoryCore.access`."""
        return self.ntm.access(self._split(before)[0], self._split(after)[0])

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        # torch.compile fuses the other operators itself.
        if torch.compiler.is_compiling() or not is_fused(self.ntm.backend, inputs.device):
            return self._run_parts(inputs, state, resets, self.ntm)
        tensors = (inputs, state, self.ntm.start(), resets, *self._weights())
        return run_block(tensors, self.ntm.kernel_sizes, self.ntm.clip, self._plain)

    def make_step(self) -> CoreStep:
        """See `MemoryCore.make_step`."""
        weights, ntm = self._weights(), self.ntm
        if not is_fused(ntm.backend, weights[0].device) or weights[0].dtype != torch.float32:
            return self._run
        start, run = ntm.start(), torch.ops.ntm_rl.ntm_block_forward.default
        laid_out = lay_out([ntm.weight_input, ntm.weight_feedback, ntm.head_layer.weight])
        fixed = (weights, ntm.kernel_sizes, ntm.clip, False, laid_out)
        return lambda inputs, state, resets: run(inputs, state, start, resets, *fixed)[:2]

    def _weights(self) -> list[Tensor]:
        return [operator.attrgetter(name)(self) for name in WEIGHTS]

    def _run_parts(
        self, inputs: Tensor, state: Tensor, resets: Tensor | None, run_ntm: Callable[..., tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        of_ntm, recent = self._split(state)
        x = self.embed_norm(self.embed(inputs))
        convolved, recent = short_convolution(x, recent, episode_numbers(inputs, resets), self.kernel)
        outputs, after = run_ntm(F.silu(convolved), of_ntm, resets)
        return self.norm(x + self.project(self._normalize(outputs))), torch.cat([after, recent.flatten(1)], dim=1)

    def _plain(
        self, inputs: Tensor, state: Tensor, start: Tensor, resets: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The kernel's sequence as plain operators, with the given weights."""
        named, run_ntm = dict(zip(WEIGHTS, weights, strict=True)), partial(self.ntm.unroll, start=start)
        found: tuple[Tensor, Tensor] = with_weights(self._run_parts, self, named, (inputs, state, resets, run_ntm))
        return found

    def _normalize(self, outputs: Tensor) -> Tensor:
        """Returns the NTM's outputs `[T, B, H + R * M]` with each read vector divided by its root mean square."""
        hidden, reads = outputs.tensor_split([self.output_size], dim=2)
        reads = reads.unflatten(2, (self.ntm.read_heads, self.ntm.width))
        reads = F.rms_norm(reads, [self.ntm.width], eps=READ_EPSILON)
        return torch.cat([hidden, reads.flatten(2)], dim=2)

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the NTM's flat state and the recent embedded inputs, `[B, C - 1, H]`."""
        of_ntm, recent = state.tensor_split([self.ntm.state_size], dim=1)
        return of_ntm, recent.unflatten(1, self.layout.shapes[-1])
