"""The Sparse Access Memory core: Rae et al. (2016), arXiv:1610.09027."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from torch import Tensor

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import named_heads
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.lstm_memory import LstmMemory, steps_with_resets
from ntm_rl.cores.registry import register_core
from ntm_rl.cores.sam_interface import SequencePlan
from ntm_rl.cores.sam_sequence import run_sparse
from ntm_rl.errors import InputError

MAX_SLOTS = 2**24  # the largest slot number that is exact in a float32 state


class SamState(NamedTuple):
    """Parts of a sparse access memory's state; numbers of slots and of accesses are integers in a float tensor.

    Attributes:
        memory: `[B, N, M]`.
        last_access: number of the last access to each slot in the episode, from 1; 0: none, `[B, N]`.
        clock: accesses in the episode, `[B, 1]`.
        slots_read: numbers of the slots that the heads read last, `[B, R, K]`.
        read_weights: of these slots, `[B, R, K]`.
        reads: read vectors `[B, R, M]`.
        hidden: controller output `[B, H]`.
        cell: of the LSTM controller, `[B, H]`.
    """

    memory: Tensor
    last_access: Tensor
    clock: Tensor
    slots_read: Tensor
    read_weights: Tensor
    reads: Tensor
    hidden: Tensor
    cell: Tensor


@register_core("sam")
class Sam(LstmMemory):
    """Sparse access memory: an LSTM with R heads that access a few slots of an `[N, M]` memory in each step.

    In each step the controller reads the input and the last read vectors. Each head writes to the K slots that it read
    last and to the least recently accessed slot, which is wiped first; then it reads the K slots most similar to its
    query. Apart from the exact search for these slots, the cost of a step and its memory for the backward pass do not
    grow with N.
    """

    def __init__(
        self,
        input_size: int,
        *,
        slots: Annotated[int, "Memory slots N."] = 1024,
        width: Annotated[int, "Width M of a slot."] = 16,
        heads: Annotated[int, "Heads R, each of which reads and writes."] = 1,
        slots_read: Annotated[int, "Slots K that a head reads in a step."] = 4,
        hidden_size: Annotated[int, "Units H of the LSTM controller."] = 128,
        clip: Annotated[float, "Range to which interface parameters are clipped."] = 20.0,
    ):
        super().__init__()
        require_at_least(
            1, input_size=input_size, width=width, heads=heads, slots_read=slots_read, hidden_size=hidden_size
        )
        require_at_least(max(heads, slots_read), " (the larger of heads and slots_read)", slots=slots)
        if slots > MAX_SLOTS:
            raise InputError(f"slots = {slots}: must be at most {MAX_SLOTS}")
        self.slots, self.width, self.heads, self.slots_read = slots, width, heads, slots_read
        interface = {"queries": heads * width, "adds": heads * width, "strengths": heads, "gates": 2 * heads}
        layout = StateLayout(
            SamState,
            memory=(slots, width),
            last_access=(slots,),
            clock=(1,),
            slots_read=(heads, slots_read),
            read_weights=(heads, slots_read),
            reads=(heads, width),
            hidden=(hidden_size,),
            cell=(hidden_size,),
        )
        self._build(input_size, hidden_size, layout, interface, clip)

    def weightings(self, state: Tensor) -> Mapping[str, Tensor]:
        """See `MemoryCore.weightings`: where each head reads, 0 at the slots that it leaves out."""
        parts: SamState = self.unpack(state)
        weights = parts.read_weights
        dense = weights.new_zeros(*weights.shape[:2], self.slots)
        return named_heads("read", dense.scatter_add(2, parts.slots_read.long(), weights))

    def _run_parts(self, inputs: Tensor, parts: SamState, resets: Tensor | None) -> tuple[Tensor, SamState]:
        controller, layer = self.controller, self.interface_layer
        has_reset = steps_with_resets(resets, len(inputs))
        plan = SequencePlan(resets, has_reset, tuple(self._interface_sizes), self.clip)
        weights = (controller.weight_feedback, layer.weight, layer.bias)
        outputs, *after = run_sparse(controller.project(inputs), *weights, *parts, plan=plan)
        return outputs, SamState(*after)
