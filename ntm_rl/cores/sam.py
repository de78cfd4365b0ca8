"""The Sparse Access Memory core: Rae et al. (2016), arXiv:1610.09027."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ntm_rl.checks import require_at_least
from ntm_rl.cores.access import Head, MemoryAccess
from ntm_rl.cores.base import named_heads
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.lstm_memory import LstmMemory, steps_with_resets
from ntm_rl.cores.registry import register_core
from ntm_rl.cores.sam_interface import SequencePlan, activate
from ntm_rl.cores.sam_sequence import SparseMemory, as_slots, run_sparse, write_shares
from ntm_rl.errors import InputError
from ntm_rl.kernels.fused import can_step

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
        return named_heads("read", self._dense(parts.slots_read.long(), parts.read_weights))

    def access(self, before: Tensor, after: Tensor) -> MemoryAccess:
        """See `MemoryCore.access`; "recency" is the number of a slot's last access as a share of all accesses."""
        last, parts = self.unpack(before), self.unpack(after)
        plan = SequencePlan(None, [False], tuple(self._interface_sizes), self.clip)
        interface = activate(self.interface_layer(parts.hidden), plan, self.width)
        memory = SparseMemory(last.memory, last.last_access, last.clock, self.heads, self.slots_read)
        write, _, _ = memory.step(interface, as_slots(last.slots_read, self.slots), last.read_weights)
        slots = (write.rows.view(len(after), -1) - memory.first_row).unflatten(1, (self.heads, -1))
        gates = {"write gate": interface.write_gates, "interpolation gate": interface.interpolation_gates}
        heads = {
            name: Head(weighting, {"key strength": interface.strengths[:, index]})
            for index, (name, weighting) in enumerate(self.weightings(after).items())
        }
        written = self._dense(slots, write_shares(interface, last.read_weights))
        for index, (name, weighting) in enumerate(named_heads("write", written).items()):
            named = {name: gate[:, index] for name, gate in gates.items()}
            heads[name] = Head(weighting, named, interface.adds[:, index])
        kept = torch.ones_like(parts.last_access).scatter(1, slots[:, :, 0], 0)  # the first slot is wiped
        recency = parts.last_access / parts.clock.clamp_min(1)
        return MemoryAccess(heads, kept.unsqueeze(2).expand_as(parts.memory), {"recency": recency})

    def _dense(self, slots: Tensor, weights: Tensor) -> Tensor:
        """Returns weightings `[B, R, N]` from slots and their weights `[B, R, K]`."""
        return weights.new_zeros(*weights.shape[:2], self.slots).scatter_add(2, slots, weights)

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        if not can_step(inputs):
            return super()._run(inputs, state, resets)
        controller, layer = self.controller, self.interface_layer
        weights = [controller.weight_input, controller.bias, controller.weight_feedback, layer.weight, layer.bias]
        shape = (self.slots, self.width, self.heads, self.slots_read)
        stepped: tuple[Tensor, Tensor] = torch.ops.ntm_rl.sam_step.default(
            inputs, state, resets, weights, shape, self.clip
        )
        return stepped

    def _run_parts(self, inputs: Tensor, parts: SamState, resets: Tensor | None) -> tuple[Tensor, SamState]:
        controller, layer = self.controller, self.interface_layer
        has_reset = steps_with_resets(resets, len(inputs))
        plan = SequencePlan(resets, has_reset, tuple(self._interface_sizes), self.clip)
        weights = (controller.weight_feedback, layer.weight, layer.bias)
        outputs, *after = run_sparse(controller.project(inputs), *weights, *parts, plan=plan)
        return outputs, SamState(*after)
