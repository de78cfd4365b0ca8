"""The Differentiable Neural Computer core: Graves et al. (2016), Nature 538, with the fixes of arXiv:1904.10278."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ntm_rl.addressing import dnc as dnc_addressing
from ntm_rl.addressing import ntm as addressing
from ntm_rl.checks import require_at_least, require_bool, require_one_of
from ntm_rl.cores.access import Head, MemoryAccess
from ntm_rl.cores.base import named_heads
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.lstm_memory import SteppedLstmMemory
from ntm_rl.cores.registry import register_core
from ntm_rl.kernels.fused import is_fused, run_fused
from ntm_rl.transforms import with_weights

Backend = Literal["auto", "eager", "fused"]

KERNEL_CONTROLLER = 0  # kLstm in kernels/controllers.h
KERNEL_WEIGHTS = (  # in the order in which the kernel takes them
    *(f"controller.{name}" for name in ("weight_input", "bias", "weight_feedback")),
    *(f"interface_layer.{name}" for name in ("weight", "bias")),
)


class DncState(NamedTuple):
    """Parts of a DNC's state.

    Attributes:
        memory: `[B, N, M]`.
        usage: u, `[B, N]`.
        links: L, `[B, N, N]`.
        precedence: p, `[B, N]`.
        write_weighting: `[B, N]`.
        read_weightings: `[B, R, N]`.
        reads: read vectors `[B, R, M]`.
        hidden: controller output `[B, H]`.
        cell: of the LSTM controller, `[B, H]`.
    """

    memory: Tensor
    usage: Tensor
    links: Tensor
    precedence: Tensor
    write_weighting: Tensor
    read_weightings: Tensor
    reads: Tensor
    hidden: Tensor
    cell: Tensor


class DncInterface(NamedTuple):
    """Interface parameters of one step, each within its valid range; K = R + 1 heads, the write head last.

    Attributes:
        keys: `[B, K, M]`.
        add: v, `[B, M]`.
        modes: pi, `[B, R, 3]` on the simplex: backward, content, forward.
        strengths: beta, `[B, K]`, at least 1.
        sharpness: of the backward, then of the forward weightings, `[B, 2 R]`, at least 1.
        erase: `[B, M]` in (0, 1).
        free_gates: f, `[B, R]` in (0, 1).
        allocation_gate: g^a, `[B, 1]` in (0, 1).
        write_gate: g^w, `[B, 1]` in (0, 1).
        masks: `[B, K, M]` in (0, 1).
    """

    keys: Tensor
    add: Tensor
    modes: Tensor
    strengths: Tensor
    sharpness: Tensor
    erase: Tensor
    free_gates: Tensor
    allocation_gate: Tensor
    write_gate: Tensor
    masks: Tensor


@register_core("dnc")
class Dnc(SteppedLstmMemory):
    """Differentiable Neural Computer: an LSTM with one write head and R read heads on an `[N, M]` memory.

    In each step the controller reads the input and the last read vectors; the free gates free slots that were just
    read; the write head writes to the least used slots or to slots similar to its key; a link matrix `[N, N]` records
    the order of writes; each read head moves backward or forward along the links from where it read last, or to slots
    similar to its key. `addressing/dnc.py` has the equations.
    """

    def __init__(
        self,
        input_size: int,
        *,
        slots: Annotated[int, "Memory slots N; time and memory grow with its square."] = 32,
        width: Annotated[int, "Width M of a slot."] = 16,
        read_heads: Annotated[int, "Read heads R."] = 1,
        hidden_size: Annotated[int, "Units H of the LSTM controller."] = 128,
        mask_content: Annotated[bool, "Let each head compare only a part of the slots' width."] = False,
        wipe_freed: Annotated[bool, "Wipe the contents of slots that are freed."] = False,
        sharpen_links: Annotated[bool, "Sharpen the forward and backward weightings."] = False,
        clip: Annotated[float, "Range to which interface parameters are clipped."] = 20.0,
        backend: Annotated[Backend, "Implementation: eager, fused (C++, on a CPU), or auto."] = "auto",
    ):
        super().__init__()
        require_at_least(
            1, input_size=input_size, slots=slots, width=width, read_heads=read_heads, hidden_size=hidden_size
        )
        require_bool(mask_content=mask_content, wipe_freed=wipe_freed, sharpen_links=sharpen_links)
        require_one_of(get_args(Backend), backend=backend)
        self.backend = backend
        self.slots, self.width, self.read_heads, self.heads = slots, width, read_heads, read_heads + 1
        self.mask_content, self.wipe_freed, self.sharpen_links = mask_content, wipe_freed, sharpen_links
        # Sizes of the groups that share one softplus and one sigmoid, in the order of DncInterface.
        self._positive_sizes = [self.heads, 2 * read_heads if sharpen_links else 0]
        self._gate_sizes = [width, read_heads, 1, 1, self.heads * width if mask_content else 0]
        interface = {
            "keys": self.heads * width,
            "add": width,
            "modes": 3 * read_heads,
            "positive": sum(self._positive_sizes),
            "gates": sum(self._gate_sizes),
        }
        layout = StateLayout(
            DncState,
            memory=(slots, width),
            usage=(slots,),
            links=(slots, slots),
            precedence=(slots,),
            write_weighting=(slots,),
            read_weightings=(read_heads, slots),
            reads=(read_heads, width),
            hidden=(hidden_size,),
            cell=(hidden_size,),
        )
        self._build(input_size, hidden_size, layout, interface, clip)
        options = map(int, (mask_content, wipe_freed, sharpen_links))
        self._kernel_sizes = (slots, width, read_heads, *options, hidden_size, KERNEL_CONTROLLER)

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        if not is_fused(self.backend, inputs.device):
            return super()._run(inputs, state, resets)
        controller, layer = self.controller, self.interface_layer
        gates = (controller.weight_input, controller.bias, controller.weight_feedback)
        tensors = (inputs, state, None, resets, *gates, layer.weight, layer.bias)
        return run_fused("dnc", tensors, self._kernel_sizes, self.clip, self._plain)

    def _plain(
        self, inputs: Tensor, state: Tensor, _: None, resets: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The kernel's sequence as plain operators, with the given weights."""
        named = dict(zip(KERNEL_WEIGHTS, weights, strict=True))
        found: tuple[Tensor, Tensor] = with_weights(super()._run, self, named, (inputs, state, resets))
        return found

    def _run_outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> Tensor:
        if is_fused(self.backend, inputs.device):
            return self._run(inputs, state, resets)[0]
        return super()._run_outputs(inputs, state, resets)

    def weightings(self, state: Tensor) -> Mapping[str, Tensor]:
        """See `MemoryCore.weightings`; each sums to at most 1."""
        parts: DncState = self.unpack(state)
        return {**named_heads("read", parts.read_weightings), "write 1": parts.write_weighting}

    def access(self, before: Tensor, after: Tensor) -> MemoryAccess:
        """See `MemoryCore.access`; read modes are backward, content and forward."""
        last, parts = self.unpack(before), self.unpack(after)
        interface = self.interface(parts.hidden)
        heads = {}
        for index, (name, weighting) in enumerate(named_heads("read", parts.read_weightings).items()):
            named = {"key strength": interface.strengths[:, index], "free gate": interface.free_gates[:, index]}
            heads[name] = Head(weighting, {**named, "read mode": interface.modes[:, index]})
        gates = {"allocation gate": interface.allocation_gate[:, 0], "write gate": interface.write_gate[:, 0]}
        named = {"key strength": interface.strengths[:, -1], **gates, "erase": interface.erase}
        heads["write 1"] = Head(parts.write_weighting, named, interface.add)
        freed = dnc_addressing.retention(interface.free_gates, last.read_weightings) if self.wipe_freed else None
        nothing = torch.zeros_like(interface.add)
        ones = torch.ones_like(parts.memory)
        kept = dnc_addressing.write(ones, parts.write_weighting, interface.erase, nothing, kept=freed)
        return MemoryAccess(heads, kept, {"usage": parts.usage}, parts.links)

    def interface(self, hidden: Tensor) -> DncInterface:
        """Returns the interface parameters from a controller output `[B, H]`."""
        keys, add, modes, positive, gates = self._interface_groups(hidden)
        strengths, sharpness = (1 + F.softplus(positive)).split(self._positive_sizes, dim=1)
        erase, free_gates, allocation_gate, write_gate, masks = torch.sigmoid(gates).split(self._gate_sizes, dim=1)
        return DncInterface(
            keys=keys.unflatten(1, (self.heads, self.width)),
            add=add,
            modes=torch.softmax(modes.unflatten(1, (self.read_heads, 3)), dim=-1),
            strengths=strengths,
            sharpness=sharpness,
            erase=erase,
            free_gates=free_gates,
            allocation_gate=allocation_gate,
            write_gate=write_gate,
            masks=masks.unflatten(1, (self.heads if self.mask_content else 0, self.width)),
        )

    def _step(self, hidden: Tensor, cell: Tensor, last: DncState) -> DncState:
        interface = self.interface(hidden)
        heads = (interface.keys, interface.strengths, interface.masks)
        read_heads, write_head = zip(*map(self._by_kind, heads), strict=True)

        kept = dnc_addressing.retention(interface.free_gates, last.read_weightings)
        usage = dnc_addressing.usage(last.usage, last.write_weighting, kept)
        allocation = dnc_addressing.allocation(usage)
        similar = self._content(last.memory, *write_head)[:, 0]
        written = dnc_addressing.write_weighting(similar, allocation, interface.allocation_gate, interface.write_gate)
        kept_contents = kept if self.wipe_freed else None
        memory = dnc_addressing.write(last.memory, written, interface.erase, interface.add, kept=kept_contents)
        links = dnc_addressing.links(last.links, last.precedence, written)
        precedence = dnc_addressing.precedence(last.precedence, written)

        backward = dnc_addressing.backward_weightings(links, last.read_weightings)
        forward = dnc_addressing.forward_weightings(links, last.read_weightings)
        if self.sharpen_links:
            directions = torch.cat([backward, forward], dim=1).clamp_min(0)  # rounding may leave a link below 0
            directions = addressing.sharpen(directions, interface.sharpness)
            backward, forward = directions.chunk(2, dim=1)
        content = self._content(memory, *read_heads)
        weightings = dnc_addressing.read_weightings(backward, content, forward, interface.modes)
        reads = addressing.read(memory, weightings)
        return DncState(memory, usage, links, precedence, written, weightings, reads, hidden, cell)

    def _by_kind(self, part: Tensor) -> Sequence[Tensor | None]:
        """Splits interface parameters `[B, K, ...]` into those of the read heads and of the write head."""
        return (None, None) if part.shape[1] == 0 else part.split([self.read_heads, 1], dim=1)

    def _content(self, memory: Tensor, keys: Tensor, strengths: Tensor, masks: Tensor | None) -> Tensor:
        if masks is None:
            return addressing.content_weighting(memory, keys, strengths)
        return dnc_addressing.masked_content_weighting(memory, keys, strengths, masks)
