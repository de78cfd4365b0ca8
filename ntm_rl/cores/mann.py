"""The MANN core with least recently used access: Santoro et al. (2016), arXiv:1605.06065."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ntm_rl.addressing import ntm as addressing
from ntm_rl.addressing.mann import decayed_usage, least_used_weightings, write, write_weightings
from ntm_rl.checks import require_at_least
from ntm_rl.cores.access import Head, MemoryAccess
from ntm_rl.cores.base import named_heads
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.lstm_memory import SteppedLstmMemory
from ntm_rl.cores.registry import register_core
from ntm_rl.errors import InputError


class MannState(NamedTuple):
    """Parts of a MANN's state.

    Attributes:
        memory: `[B, N, M]`.
        usage: w^u, `[B, N]`.
        read_weightings: w^r, `[B, R, N]`.
        reads: read vectors `[B, R, M]`.
        hidden: controller output `[B, H]`.
        cell: of the LSTM controller, `[B, H]`.
    """

    memory: Tensor
    usage: Tensor
    read_weightings: Tensor
    reads: Tensor
    hidden: Tensor
    cell: Tensor


@register_core("mann")
class Mann(SteppedLstmMemory):
    """Memory-augmented neural network with least recently used access: an LSTM with R heads on an `[N, M]` memory.

    In each step the controller reads the input and the last read vectors and emits a key for each head. Each head
    writes its key to where it read last or to one of the least used slots, which is wiped first; then it reads by
    similarity to its key.
    """

    def __init__(
        self,
        input_size: int,
        *,
        slots: Annotated[int, "Memory slots N."] = 32,
        width: Annotated[int, "Width M of a slot."] = 16,
        heads: Annotated[int, "Heads R, each of which reads and writes."] = 1,
        hidden_size: Annotated[int, "Units H of the LSTM controller."] = 128,
        usage_decay: Annotated[float, "Share of a slot's usage that remains after a step."] = 0.95,
        clip: Annotated[float, "Range to which interface parameters are clipped."] = 20.0,
    ):
        super().__init__()
        require_at_least(1, input_size=input_size, width=width, heads=heads, hidden_size=hidden_size)
        require_at_least(heads, " (heads)", slots=slots)
        if not isinstance(usage_decay, int | float) or isinstance(usage_decay, bool) or not 0 <= usage_decay < 1:
            raise InputError(f"usage_decay = {usage_decay!r}: must be a number of at least 0 and below 1")
        self.slots, self.width, self.heads, self.usage_decay = slots, width, heads, usage_decay
        interface = {"keys": heads * width, "gates": heads}
        layout = StateLayout(
            MannState,
            memory=(slots, width),
            usage=(slots,),
            read_weightings=(heads, slots),
            reads=(heads, width),
            hidden=(hidden_size,),
            cell=(hidden_size,),
        )
        self._build(input_size, hidden_size, layout, interface, clip)

    def weightings(self, state: Tensor) -> Mapping[str, Tensor]:
        """See `MemoryCore.weightings`: where each head reads; the state does not keep where it wrote."""
        return named_heads("read", self.unpack(state).read_weightings)

    def access(self, before: Tensor, after: Tensor) -> MemoryAccess:
        """See `MemoryCore.access`."""
        last, parts = self.unpack(before), self.unpack(after)
        keys, gates, least_used, written = self._writes(parts.hidden, last)
        heads = {name: Head(each) for name, each in named_heads("read", parts.read_weightings).items()}
        for index, (name, weighting) in enumerate(named_heads("write", written).items()):
            heads[name] = Head(weighting, {"gate": gates[:, index]}, keys[:, index])
        kept = write(torch.ones_like(parts.memory), least_used, written, torch.zeros_like(keys))
        return MemoryAccess(heads, kept, {"usage": parts.usage})

    def _step(self, hidden: Tensor, cell: Tensor, last: MannState) -> MannState:
        keys, _, least_used, written = self._writes(hidden, last)
        memory = write(last.memory, least_used, written, keys)
        weightings = torch.softmax(addressing.cosine_similarity(memory, keys), dim=-1)
        usage = decayed_usage(last.usage, weightings, written, self.usage_decay)
        reads = addressing.read(memory, weightings)
        return MannState(memory, usage, weightings, reads, hidden, cell)

    def _writes(self, hidden: Tensor, last: MannState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns keys `[B, R, M]`, gates `[B, R]`, least used slots and write weightings, both `[B, R, N]`."""
        raw_keys, raw_gates = self._interface_groups(hidden)
        least_used, gates = least_used_weightings(last.usage, self.heads), torch.sigmoid(raw_gates)
        keys = raw_keys.unflatten(1, (self.heads, self.width))
        return keys, gates, least_used, write_weightings(last.read_weightings, least_used, gates)
