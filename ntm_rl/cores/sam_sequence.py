"""A sparse access memory over whole sequences, forward and backward, with one memory that is updated in place.

Autograd would keep the memory of every step. Instead the forward pass keeps the rows that it changes, and the backward
pass restores the memory from them: section 3.4 of Rae et al. (2016), arXiv:1610.09027.

A reset does not clear the N rows of a memory: `scales` `[B, N]` is the reciprocal norm of each slot, or 0 where the
slot is empty in this episode. The contents of an empty slot count as zero, and the first write replaces them; in the
backward pass the same write ends the slot's gradient.

Letters: T time, B batch, N slots, M width, R heads, K slots that a head reads, A = R * (1 + K) slots written in a step.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ntm_rl.addressing.ntm import NORM_EPSILON
from ntm_rl.cores.devices import can_read_values, full_precision
from ntm_rl.cores.lstm_memory import feedback_of, output_of
from ntm_rl.cores.lstm_step import LstmStep, lstm_step, lstm_step_backward
from ntm_rl.cores.sam_interface import SamInterface, SequencePlan, activate, activation_slopes
from ntm_rl.transforms import differentiate, is_backward_transformed, is_transformed

NEGLIGIBLE = 0.005  # largest weight that does not count as an access (delta in section 3.2)
TIE = 1e-10  # subtracted from a slot's score per slot before it: of empty slots the first are read
BLOCK = 256  # slots per block of a search in a large memory


class _Write(NamedTuple):
    """A write: rows of the flat memory `[B * A]`, their contents before, and whether they were in use, `[B * A, 1]`."""

    rows: Tensor
    contents: Tensor
    in_use: Tensor
    last_weights: Tensor


class _Read(NamedTuple):
    """A read: slots and rows of the flat memory, whether they are in use, and weights, each `[B, R, K]`."""

    slots: Tensor
    rows: Tensor
    in_use: Tensor
    weights: Tensor


class SparseMemory:
    """The memory of a sequence, updated in place unless autograd or vmap needs earlier values."""

    def __init__(self, memory: Tensor, last_access: Tensor, clock: Tensor, heads: int, count: int):
        batch, slots, width = memory.shape
        self.is_functional = torch.is_grad_enabled() or is_transformed()
        self.shape = memory.shape
        self.flat = memory.clone(memory_format=torch.contiguous_format).view(batch * slots, width)
        self.first_row = slots * torch.arange(batch, device=memory.device).unsqueeze(1)  # [B, 1]
        self.scales = _scales(memory)
        # Slots that were never accessed are the least recent ones, in order.
        self.never = torch.arange(-slots, 0, dtype=memory.dtype, device=memory.device)
        self.order = TIE * self.never.flip(0)
        self.last_access = torch.where(last_access < 0.5, self.never, last_access.round())
        self.clock = clock.round()
        self.count = count
        self.ticks = torch.arange(1, heads * (1 + 2 * count) + 1, dtype=memory.dtype, device=memory.device)

    def reset(self, where: Tensor) -> None:
        """Begins an episode in the sequences of the mask `where` `[B, 1]`."""
        self.scales = self.scales.masked_fill(where, 0)
        self.last_access = torch.where(where, self.never, self.last_access)
        self.clock = self.clock.masked_fill(where, 0)

    def step(self, interface: SamInterface, last_slots: Tensor, last_weights: Tensor) -> tuple[_Write, _Read, Tensor]:
        """Writes, then reads; returns the write, the read and the read vectors `[B, R, M]`."""
        least_recent = largest(-self.last_access, last_slots.shape[1])  # [B, R]
        written = torch.cat([least_recent.unsqueeze(2), last_slots], dim=2).flatten(1)  # [B, A]
        rows = (written + self.first_row).flatten()
        scatter = Tensor.scatter if self.is_functional else Tensor.scatter_
        self.scales = scatter(self.scales, 1, least_recent, 0)
        in_use = (self.scales.gather(1, written) != 0).view(-1, 1)
        contents = self.flat.index_select(0, rows)
        shares = write_shares(interface, last_weights)
        self._put(rows, contents, in_use, (shares.unsqueeze(3) * interface.adds.unsqueeze(2)).flatten(0, 2))
        scales = _scales(self.flat.detach().index_select(0, rows)).view(written.shape)
        self.scales = scatter(self.scales, 1, written, scales)

        products = torch.bmm(interface.queries.detach(), self.contents().detach().transpose(1, 2))
        scores = torch.addcmul(self.order, products, self.scales.unsqueeze(1))  # [B, R, N]
        # Contents from another episode may be NaN.
        scores = torch.where((self.scales != 0).unsqueeze(1), scores, self.order)
        slots = largest(scores, self.count).sort(-1).values  # independent of their scores
        found = slots.flatten(1)
        in_use_found = (self.scales.gather(1, found) != 0).view(slots.shape)
        read = _Read(slots, (found + self.first_row).flatten(), in_use_found, torch.empty(0))
        similar = self.rows(read)
        weights = torch.softmax(interface.strengths.unsqueeze(2) * _cosines(interface.queries, similar), dim=2)

        times = self.clock + self.ticks
        weight = torch.cat([shares.flatten(1), weights.flatten(1)], dim=1)
        times = torch.where(weight > NEGLIGIBLE, times, -torch.inf)
        reduce = Tensor.scatter_reduce if self.is_functional else Tensor.scatter_reduce_
        self.last_access = reduce(self.last_access, 1, torch.cat([written, found], dim=1), times, "amax")
        self.clock = self.clock + len(self.ticks)
        reads = (weights.unsqueeze(3) * similar).sum(2)
        return _Write(rows, contents, in_use, last_weights), read._replace(weights=weights), reads

    def _put(self, rows: Tensor, contents: Tensor, in_use: Tensor, added: Tensor) -> None:
        """Clears the rows that are not in use, then adds to all; additions to the same row accumulate."""
        if self.is_functional:
            # Not index_copy of the contents: its gradient would count repeated rows twice.
            cleared = contents.new_zeros(self.flat.shape[0], 1).index_copy(0, rows, (~in_use).to(contents.dtype))
            self.flat = self.flat.masked_fill(cleared != 0, 0).index_add(0, rows, added)
        else:
            self.flat.index_copy_(0, rows, contents.masked_fill(~in_use, 0))
            self.flat.index_add_(0, rows, added)

    def contents(self) -> Tensor:
        """Returns the memory, `[B, N, M]`."""
        return self.flat.view(self.shape)

    def rows(self, read: _Read) -> Tensor:
        """Returns the contents of a read's slots, `[B, R, K, M]`."""
        return _contents_of(self.flat.index_select(0, read.rows), read)

    def after(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the memory, the times of last access and the clock for the state."""
        return self.contents(), self.last_access.clamp(min=0), self.clock


class _Step(NamedTuple):
    """A step: the feedback `[B, R * M + H]`, the cell before it, the controller's step, the write and the read."""

    feedback: Tensor
    last_cell: Tensor
    control: LstmStep
    write: _Write
    read: _Read


class _Run(NamedTuple):
    """Results of a sequence: outputs, the state's parts after it, and the values for the backward pass.

    Attributes:
        outputs: `[T, B, H + R * M]`.
        after: Parts of the state.
        tape: Of each step.
        raws: Outputs of the interface layer, `[T, B, P]`.
        contents: The memory after the last step, with contents of earlier episodes.
        in_use: Slots in use after the last step, `[B, N, 1]`; None: all.
    """

    outputs: Tensor
    after: tuple[Tensor, ...]
    tape: list[_Step]
    raws: Tensor
    contents: Tensor
    in_use: Tensor | None


def _run(
    from_input: Tensor,
    weight_feedback: Tensor,
    weight_interface: Tensor,
    bias_interface: Tensor,
    contents: Tensor,
    last_access: Tensor,
    clock: Tensor,
    slots_read: Tensor,
    weights: Tensor,
    reads: Tensor,
    hidden: Tensor,
    cell: Tensor,
    plan: SequencePlan,
) -> _Run:
    """Runs the sequence; `from_input` is the inputs' share in the controller's gates, `[T, B, 4 H]`."""
    memory = SparseMemory(contents, last_access, clock, *slots_read.shape[1:])
    slots_read = as_slots(slots_read, contents.shape[1])
    tape, raws, outputs = [], [], []
    for step, projected in enumerate(from_input):
        if plan.resets is not None and plan.has_reset[step]:
            where = plan.resets[step].unsqueeze(1)
            memory.reset(where)
            hidden, cell = hidden.masked_fill(where, 0), cell.masked_fill(where, 0)
            slots_read, weights, reads = (
                part.masked_fill(where.unsqueeze(2), 0) for part in (slots_read, weights, reads)
            )
        feedback, last_cell = feedback_of(reads, hidden), cell
        control = lstm_step(torch.addmm(projected, feedback, weight_feedback.t()), last_cell)
        hidden, cell = control.hidden, control.cell
        raw = torch.addmm(bias_interface, hidden, weight_interface.t())
        write, read, reads = memory.step(activate(raw, plan, contents.shape[2]), slots_read, weights)
        slots_read, weights = read.slots, read.weights
        tape.append(_Step(feedback, last_cell, control, write, read))
        raws.append(raw)
        outputs.append(output_of(hidden, reads))
    contents, last_access, clock = memory.after()
    # The backward pass needs the contents of earlier episodes; the state must not contain them.
    in_use = (memory.scales != 0).unsqueeze(2) if any(plan.has_reset) else None
    after = contents if in_use is None else _zero_unused(contents, in_use)
    # Cloned: an output that is on its own tape would never be freed.
    state = (slots_read.to(contents.dtype), weights.clone(), reads, hidden.clone(), cell.clone())
    return _Run(torch.stack(outputs), (after, last_access, clock, *state), tape, torch.stack(raws), contents, in_use)


def run_sparse(*tensors: Tensor, plan: SequencePlan) -> tuple[Tensor, ...]:
    """Runs `SparseSequence`, or its plain operators where a transform needs them."""
    if is_transformed():
        return _plain(*tensors, plan=plan)
    found: tuple[Tensor, ...] = SparseSequence.apply(*tensors, plan)  # type: ignore[no-untyped-call]
    return found


def _plain(*arguments: Any, plan: SequencePlan) -> tuple[Tensor, ...]:
    """`SparseSequence` as plain operators, which keep the memory of each step."""
    run = _run(*arguments, plan)  # type: ignore[call-arg]
    return run.outputs, *run.after


class SparseSequence(Function):
    """Outputs `[T, B, H + R * M]` and the state's parts after the last step, see `sam.SamState`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Runs the sequence; the arguments are those of `_run`."""
        *tensors, plan = arguments
        # The caller may change the resets before the backward pass; changes of the saved tensors raise an error.
        plan = plan._replace(resets=None if plan.resets is None else plan.resets.clone())
        run = _run(*tensors, plan)  # type: ignore[call-arg]
        ctx.save_for_backward(*tensors, run.raws, run.contents)
        ctx.tape, ctx.plan, ctx.in_use = run.tape, plan, run.in_use
        _, last_access, clock, slots_read, *_ = run.after
        ctx.mark_non_differentiable(last_access, clock, slots_read)
        ctx.set_materialize_grads(False)
        return run.outputs, *run.after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Restores the memory of each step, from the last to the first."""
        *tensors, raws, contents = ctx.saved_tensors
        if is_backward_transformed():
            plain = partial(_plain, plan=ctx.plan)
            return *differentiate(plain, tensors, ctx.needs_input_grad[:-1], gradients), None
        with full_precision(contents.device):
            return _roll_back(ctx, tensors, raws, contents, gradients)


def _roll_back(
    ctx: Any, tensors: Sequence[Tensor], raws: Tensor, contents: Tensor, gradients: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    _, weight_feedback, weight_interface, *_ = tensors
    tape, plan = ctx.tape, ctx.plan
    d_outputs, d_contents, _, _, _, d_weights, d_reads, d_hidden, d_cell = gradients
    memory = _BackwardMemory(contents, d_contents, ctx.in_use)
    interfaces = activate(raws, plan, contents.shape[2])
    slopes = activation_slopes(raws, interfaces, plan)
    d_weights = torch.zeros_like(tape[-1].read.weights) if d_weights is None else d_weights
    d_hidden, d_cell = (torch.zeros_like(tape[-1].last_cell) if each is None else each for each in (d_hidden, d_cell))
    d_reads = torch.zeros_like(interfaces.adds[-1]) if d_reads is None else d_reads
    size, heads = d_hidden.shape[1], d_reads.shape[1:]
    all_gates, all_raws = [], []
    for step in reversed(range(len(tape))):
        feedback, last_cell, control, write, read = tape[step]
        interface = SamInterface(*(part[step] for part in interfaces))
        if d_outputs is not None:
            d_hidden = d_hidden + d_outputs[step, :, :size]
            d_reads = d_reads + d_outputs[step, :, size:].unflatten(1, heads)
        d_queries, d_strengths = memory.read(interface, read, d_reads, d_weights)
        d_adds, d_interface_gates, d_weights = memory.write(interface, write)
        d_groups = [d_queries.flatten(1), d_adds.flatten(1), d_strengths, d_interface_gates]
        d_raw = torch.cat(d_groups, dim=1) * slopes[step]
        d_hidden = torch.addmm(d_hidden, d_raw, weight_interface)
        d_gates, d_cell = lstm_step_backward(control, last_cell, d_hidden, d_cell)
        d_reads, d_hidden = (d_gates @ weight_feedback).split([feedback.shape[1] - size, size], dim=1)
        d_reads = d_reads.unflatten(1, heads)
        if plan.resets is not None and plan.has_reset[step]:
            where = plan.resets[step].unsqueeze(1)
            d_hidden, d_cell = d_hidden.masked_fill(where, 0), d_cell.masked_fill(where, 0)
            d_reads, d_weights = (part.masked_fill(where.unsqueeze(2), 0) for part in (d_reads, d_weights))
        all_gates.append(d_gates)
        all_raws.append(d_raw)
    d_gates, d_raws = torch.stack(all_gates[::-1]), torch.cat(all_raws[::-1])
    d_weight_feedback = d_gates.flatten(0, 1).t() @ torch.cat([step.feedback for step in tape])
    d_weight_interface = d_raws.t() @ torch.cat([step.control.hidden for step in tape])
    d_state = (memory.gradient(), None, None, None, d_weights, d_reads, d_hidden, d_cell)
    return d_gates, d_weight_feedback, d_weight_interface, d_raws.sum(0), *d_state, None


class _BackwardMemory:
    """The memory and its gradient in the backward pass, restored in place; the gradient is that of slots in use."""

    def __init__(self, contents: Tensor, d_contents: Tensor | None, in_use: Tensor | None):
        self.shape = contents.shape
        self.flat = contents.clone().flatten(0, 1)
        if d_contents is None:
            self.d_flat = torch.zeros_like(self.flat)
        else:
            self.d_flat = (d_contents.clone() if in_use is None else d_contents.masked_fill(~in_use, 0)).flatten(0, 1)

    def read(self, interface: SamInterface, read: _Read, d_reads: Tensor, d_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of queries and strengths; `d_weights` comes from the next step's write."""
        rows = _contents_of(self.flat.index_select(0, read.rows), read)  # [B, R, K, M]
        query, weights = interface.queries.unsqueeze(2), read.weights
        d_weights = d_weights + (rows * d_reads.unsqueeze(2)).sum(3)
        d_scores = weights * (d_weights - (weights * d_weights).sum(2, keepdim=True))
        query_scale = _reciprocal_norms(query)  # [B, R, 1]
        scales = _reciprocal_norms(rows)
        both = query_scale * scales
        cosines = (rows * query).sum(3) * both
        d_strengths = (d_scores * cosines).sum(2)
        d_cosines = d_scores * interface.strengths.unsqueeze(2)
        d_products, shrinks = d_cosines * both, d_cosines * cosines
        d_queries = (d_products.unsqueeze(3) * rows).sum(2)
        d_queries = d_queries - interface.queries * (shrinks * query_scale.square()).sum(2, keepdim=True)
        d_rows = d_products.unsqueeze(3) * query - rows * (shrinks * scales.square()).unsqueeze(3)
        d_rows = d_rows + weights.unsqueeze(3) * d_reads.unsqueeze(2)
        self.d_flat.index_add_(0, read.rows, _contents_of(d_rows.flatten(0, 2), read).flatten(0, 2))
        return d_queries, d_strengths

    def write(self, interface: SamInterface, write: _Write) -> tuple[Tensor, Tensor, Tensor]:
        """Undoes a write; returns the gradients of adds, of both gates `[B, 2 R]`, and of the last weights."""
        d_rows = self.d_flat.index_select(0, write.rows)
        self.flat.index_copy_(0, write.rows, write.contents)
        self.d_flat.index_copy_(0, write.rows, d_rows.masked_fill(~write.in_use, 0))
        last, gate = write.last_weights, interface.write_gates
        d_rows = d_rows.view(*last.shape[:2], 1 + last.shape[2], d_rows.shape[1])  # [B, R, 1 + K, M]
        d_adds = (write_shares(interface, last).unsqueeze(3) * d_rows).sum(2)
        d_shares = (d_rows * interface.adds.unsqueeze(2)).sum(3)
        d_wiped, d_last = d_shares[..., 0], d_shares[..., 1:]
        by_last = (d_last * last).sum(2)
        d_gate = torch.lerp(d_wiped, by_last, interface.interpolation_gates)
        d_interpolation = gate * (by_last - d_wiped)
        d_last = d_last * (gate * interface.interpolation_gates).unsqueeze(2)
        return d_adds, torch.cat([d_gate, d_interpolation], dim=1), d_last

    def gradient(self) -> Tensor:
        """Returns the gradient of the memory at the current step."""
        return self.d_flat.view(self.shape)


def largest(values: Tensor, count: int) -> Tensor:
    """Returns the indices of the `count` largest of `values` `[B, N]` or `[B, R, N]`, in descending order.

    In a large memory only the blocks with the largest maxima are searched: no other can contain one of them.
    """
    blocks, rest = divmod(values.shape[-1], BLOCK)
    if rest or blocks < 4 * count:
        return values.topk(count, dim=-1).indices
    blocked = values.unflatten(-1, (blocks, BLOCK))
    best = blocked.amax(-1).topk(count, dim=-1, sorted=False).indices
    candidates = blocked.gather(-2, best.unsqueeze(-1).expand(*best.shape, BLOCK)).flatten(-2)
    within = candidates.topk(count, dim=-1).indices
    return torch.add(within % BLOCK, best.gather(-1, within // BLOCK), alpha=BLOCK)


def as_slots(numbers: Tensor, slots: int) -> Tensor:
    """Returns the slot numbers in a float state as indices."""
    return numbers.nan_to_num(0).round().clamp(0, slots - 1).long()


def write_shares(interface: SamInterface, last_weights: Tensor) -> Tensor:
    """Returns the write weights (equation 5) of the wiped slot and of those read last, `[B, R, 1 + K]`."""
    gate, interpolation = interface.write_gates.unsqueeze(2), interface.interpolation_gates.unsqueeze(2)
    return gate * torch.cat([1 - interpolation, interpolation * last_weights], dim=2)


def _reciprocal_norms(rows: Tensor) -> Tensor:
    """Returns the reciprocal norms of the last dimension, above zero."""
    return torch.rsqrt((rows * rows).sum(-1) + NORM_EPSILON)


def _scales(rows: Tensor) -> Tensor:
    """Returns the reciprocal norms of slots in use: above 0 even where a norm is infinite."""
    return _reciprocal_norms(rows).clamp_min(torch.finfo(rows.dtype).tiny)


def _zero_unused(contents: Tensor, in_use: Tensor) -> Tensor:
    """Returns contents `[B, N, M]`, 0 where not `in_use` `[B, N, 1]`; finite ones by a product, five times as fast."""
    product = contents * in_use
    if can_read_values(contents.device) and bool(product.sum().isfinite()):
        return product
    return contents.masked_fill(~in_use, 0)


def _cosines(queries: Tensor, rows: Tensor) -> Tensor:
    """Returns the cosines `[B, R, K]` between queries `[B, R, M]` and rows `[B, R, K, M]`."""
    products = (rows * queries.unsqueeze(2)).sum(3)
    return products * _reciprocal_norms(queries).unsqueeze(2) * _reciprocal_norms(rows)


def _contents_of(rows: Tensor, read: _Read) -> Tensor:
    """Returns rows `[B * R * K, M]` as `[B, R, K, M]`, zero where the slot is not in use."""
    return rows.view(*read.in_use.shape, rows.shape[1]).masked_fill(~read.in_use.unsqueeze(3), 0)
