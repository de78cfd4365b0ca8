"""A Neural Turing Machine between an embedding and a projection of its read vectors."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import CoreStep
from ntm_rl.cores.devices import full_precision
from ntm_rl.cores.ntm import Backend, MemoryInit, Ntm
from ntm_rl.cores.ntm_heads import Init
from ntm_rl.cores.registry import register_core
from ntm_rl.kernels.fused import lay_out

READ_EPSILON = 1e-4  # added to a read vector's mean square: heads that start spread over a tape read small vectors
SKIP_SCALE = 0.25  # of the skip connection at first, relative to the embedding; policies overfit to a larger one
GAIN_RATE = 0.2  # factor on the learning rate of the gains, so that they follow a steady gradient and not noise


@register_core("ntm_block")
class NtmBlock(Ntm):
    """An NTM whose inputs are embedded, with projected read vectors and a skip connection added to its hidden state.

    x = embed(input), [h, r] = NTM(x), output = h + skip(input) + project(gain * RMSNorm(r)), with a norm for each read
    head; embed, skip and project are linear. By default the NTM has heads of several types (`init="mixed"`) and cells
    that begin with time constants up to `horizon` steps. The skip connection is for what needs no memory: such cells
    take little from a single input.

    The gains are 0 at first, so that the reads fade in where they help (as in ReZero; Bachlechner et al. 2020,
    arXiv:2003.04887). The product of embedding and gates has the variance of an LSTM's input weights at first, but the
    steps of an optimizer in it are larger.
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
        horizon: Annotated[int, "See the core `ntm`."] = 512,
        memory_init: Annotated[MemoryInit, "See the core `ntm`."] = "constant",
        init: Annotated[Init, "See the core `ntm`."] = "mixed",
        tape_logit: Annotated[float, "See the core `ntm`."] = 6.0,
        start_scale: Annotated[float, "See the core `ntm`."] = 30.0,
        backend: Annotated[Backend, "See the core `ntm`."] = "auto",
    ):
        require_at_least(1, input_size=input_size, hidden_size=hidden_size)
        super().__init__(
            hidden_size,  # of the embedding
            slots=slots,
            width=width,
            read_heads=read_heads,
            write_heads=write_heads,
            hidden_size=hidden_size,
            horizon=horizon,
            memory_init=memory_init,
            init=init,
            tape_logit=tape_logit,
            start_scale=start_scale,
            backend=backend,
        )
        self.input_size, self.output_size = input_size, hidden_size
        # Without a bias: it would make rare observations look like common ones at first, so that the policy does not
        # explore at them.
        self.embed = nn.Linear(input_size, hidden_size, bias=False)
        bound = math.sqrt(3 / hidden_size)
        nn.init.uniform_(self.embed.weight, -bound, bound)
        self.skip = nn.Linear(input_size, hidden_size, bias=False)
        nn.init.uniform_(self.skip.weight, -SKIP_SCALE * bound, SKIP_SCALE * bound)
        self.gain = nn.Parameter(torch.zeros(read_heads * width))
        self.project = nn.Linear(read_heads * width, hidden_size, bias=False)
        self._is_folded = input_size <= hidden_size  # embedding and gates then cost less as one product

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs, after = super()._run(self._embed(inputs), state, resets)
        return self._add_reads(outputs) + self.skip(inputs), after

    def make_step(self) -> CoreStep:
        """See `MemoryCore.make_step`."""
        if not self._can_prepare():
            return self._run
        run, add_reads, device = super().make_step(), torch.ops.ntm_rl.add_reads.default, self.bias.device
        weight = (GAIN_RATE * self.gain * self.project.weight).detach()
        skip = self.skip.weight.detach()
        laid_out = lay_out([weight, skip])

        def step(inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
            with full_precision(device):
                outputs, after = run(self._embed(inputs), state, resets)
            return add_reads(outputs, weight, inputs, skip, laid_out, self.width, READ_EPSILON), after

        return step

    def _embed(self, inputs: Tensor) -> Tensor:
        """Returns the controller's inputs."""
        embedded: Tensor = inputs if self._is_folded else self.embed(inputs)
        return embedded

    def _input_weights(self) -> tuple[Tensor, Tensor]:
        return self.weight_input @ self.embed.weight if self._is_folded else self.weight_input, self.bias

    def _add_reads(self, outputs: Tensor) -> Tensor:
        """Returns hidden states plus projected reads, from both `[T, B, H + R * M]`."""
        hidden, reads = outputs.tensor_split([self.hidden_size], dim=2)
        reads = F.rms_norm(reads.unflatten(2, (self.read_heads, self.width)), [self.width], eps=READ_EPSILON)
        added: Tensor = hidden + self.project(GAIN_RATE * self.gain * reads.flatten(2))
        return added
