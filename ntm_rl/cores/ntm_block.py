"""A Neural Turing Machine between an embedding and a projection of its read vectors."""

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.ntm import Backend, MemoryInit, Ntm
from ntm_rl.cores.ntm_heads import Init
from ntm_rl.cores.registry import register_core

READ_EPSILON = 0.01  # added to a read vector's mean square, so that the reads of an almost empty memory stay small


@register_core("ntm_block")
class NtmBlock(Ntm):
    """An NTM whose inputs are embedded, and whose read vectors are projected and added to the controller's output.

    x = embed(input), [h, r] = NTM(x), output = h + project(RMSNorm(r)), with a norm for each read head. By default the
    NTM has heads of several types (`init="mixed"`) and cells that begin with time constants up to `horizon` steps.

    The embedding makes the steps of an optimizer in the controller's gates larger: with Adam they grow with the number
    of inputs. The norm gives the reads weight before writes are large.
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
        self.project = nn.Linear(read_heads * width, hidden_size, bias=False)
        self._is_folded = input_size <= hidden_size  # embedding and gates then cost less as one product

    def _embed(self, inputs: Tensor) -> Tensor:
        embedded: Tensor = inputs if self._is_folded else self.embed(inputs)
        return embedded

    def _input_weights(self) -> tuple[Tensor, Tensor]:
        return self.weight_input @ self.embed.weight if self._is_folded else self.weight_input, self.bias

    def _project(self, outputs: Tensor) -> Tensor:
        hidden, reads = outputs.tensor_split([self.hidden_size], dim=2)
        reads = F.rms_norm(reads.unflatten(2, (self.read_heads, self.width)), [self.width], eps=READ_EPSILON)
        projected: Tensor = hidden + self.project(reads.flatten(2))
        return projected
