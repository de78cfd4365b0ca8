"""A sparse access memory run over a whole sequence, forward and backward, on one memory in place.

Autograd's tape would keep the memory of every step. Here the forward pass keeps the rows that it is about to change,
and the backward pass rolls the memory back by them, as section 3.4 of Rae et al. (2016), arXiv:1610.09027, has it.

A memory is never cleared either, which would cost N rows at each reset: `scales` `[B, N]` has for each slot the
reciprocal of its norm, or 0 where the slot holds nothing of this episode. What such a slot holds counts as zero, and
the first write replaces it; in the backward pass the same write ends the slot's gradient.

Letters: T time, B batch, N slots, M width, R heads, K slots that a head reads, A = R * (1 + K) slots written in a step.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ntm_rl.addressing.ntm import NORM_EPSILON
from ntm_rl.cores.devices import host_sees, without_autocast
from ntm_rl.cores.sam_control import Control, Plan, Said, control_backward, interpret, run_control, slopes_of
from ntm_rl.transforms import differentiate, is_backward_transformed, is_transformed

# An access of no more weight than this is none (delta in section 3.2).
NEGLIGIBLE = 0.005
TIE = 1e-10  # taken off a slot's score for each slot before it: of slots that are all empty the first are read
BLOCK = 256  # slots of which a lookup in a large memory compares the best alone first


class _Write(NamedTuple):
    """A write: rows of the flat memory `[B * A]`, their contents before, and whether those counted, `[B * A, 1]`."""

    rows: Tensor
    contents: Tensor
    counted: Tensor
    last_weights: Tensor


class _Read(NamedTuple):
    """A read: slots and rows of the flat memory, whether they hold anything, and weights, each `[B, R, K]`."""

    slots: Tensor
    rows: Tensor
    holds: Tensor
    weights: Tensor


class _Memory:
    """The memory of a sequence, changed in place, but where autograd or vmap keeps what it was."""

    def __init__(self, memory: Tensor, last_access: Tensor, clock: Tensor, heads: int, count: int):
        batch, slots, width = memory.shape
        self.is_kept = torch.is_grad_enabled() or is_transformed()
        self.shape = memory.shape
        self.flat = memory.clone(memory_format=torch.contiguous_format).view(batch * slots, width)
        self.first_row = slots * torch.arange(batch, device=memory.device).unsqueeze(1)  # [B, 1]
        self.scales = _scales(memory)
        # Slots never accessed are the least recent ones, the first of them least of all.
        self.never = torch.arange(-slots, 0, dtype=memory.dtype, device=memory.device)
        self.order = TIE * self.never.flip(0)
        self.last_access = torch.where(last_access < 0.5, self.never, last_access.round())
        self.clock = clock.round()
        self.count = count
        self.ticks = torch.arange(1, heads * (1 + 2 * count) + 1, dtype=memory.dtype, device=memory.device)

    def reset(self, where: Tensor) -> None:
        """Begins an episode in the sequences `where` `[B, 1]` says."""
        self.scales = self.scales.masked_fill(where, 0)
        self.last_access = torch.where(where, self.never, self.last_access)
        self.clock = self.clock.masked_fill(where, 0)

    def step(self, said: Said, last_slots: Tensor, last_weights: Tensor) -> tuple[_Write, _Read, Tensor]:
        """Writes, then reads; returns both and the read vectors `[B, R, M]`."""
        least_recent = largest(-self.last_access, last_slots.shape[1])  # [B, R]
        written = torch.cat([least_recent.unsqueeze(2), last_slots], dim=2).flatten(1)  # [B, A]
        rows = (written + self.first_row).flatten()
        scatter = Tensor.scatter if self.is_kept else Tensor.scatter_
        self.scales = scatter(self.scales, 1, least_recent, 0)
        counted = (self.scales.gather(1, written) != 0).view(-1, 1)
        contents = self.flat.index_select(0, rows)
        shares = write_shares(said, last_weights)
        self._put(rows, contents, counted, (shares.unsqueeze(3) * said.adds.unsqueeze(2)).flatten(0, 2))
        scales = _scales(self.flat.detach().index_select(0, rows)).view(written.shape)
        self.scales = scatter(self.scales, 1, written, scales)

        products = torch.bmm(said.queries.detach(), self.contents().detach().transpose(1, 2))
        scores = torch.addcmul(self.order, products, self.scales.unsqueeze(1))  # [B, R, N]
        # What a slot holds of another episode may be NaN.
        scores = torch.where((self.scales != 0).unsqueeze(1), scores, self.order)
        slots = largest(scores, self.count).sort(-1).values  # in one order, whatever their scores
        found = slots.flatten(1)
        holds = (self.scales.gather(1, found) != 0).view(slots.shape)
        read = _Read(slots, (found + self.first_row).flatten(), holds, torch.empty(0))
        similar = self.rows(read)
        weights = torch.softmax(said.strengths.unsqueeze(2) * _cosines(said.queries, similar), dim=2)

        times = self.clock + self.ticks
        weight = torch.cat([shares.flatten(1), weights.flatten(1)], dim=1)
        times = torch.where(weight > NEGLIGIBLE, times, -torch.inf)
        reduce = Tensor.scatter_reduce if self.is_kept else Tensor.scatter_reduce_
        self.last_access = reduce(self.last_access, 1, torch.cat([written, found], dim=1), times, "amax")
        self.clock = self.clock + len(self.ticks)
        reads = (weights.unsqueeze(3) * similar).sum(2)
        return _Write(rows, contents, counted, last_weights), read._replace(weights=weights), reads

    def _put(self, rows: Tensor, contents: Tensor, counted: Tensor, added: Tensor) -> None:
        """Adds to rows, after those that do not count were cleared; where two rows are the same, both are added."""
        if self.is_kept:
            # Not index_copy of the contents: its gradient would count a row twice that is named twice.
            cleared = contents.new_zeros(len(self.flat), 1).index_copy(0, rows, (~counted).to(contents.dtype))
            self.flat = self.flat.masked_fill(cleared != 0, 0).index_add(0, rows, added)
        else:
            self.flat.index_copy_(0, rows, contents.masked_fill(~counted, 0))
            self.flat.index_add_(0, rows, added)

    def contents(self) -> Tensor:
        """Returns the memory, `[B, N, M]`."""
        return self.flat.view(self.shape)

    def rows(self, read: _Read) -> Tensor:
        """Returns what a read finds, `[B, R, K, M]`."""
        return _held(self.flat.index_select(0, read.rows), read)

    def after(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the memory, the times of last access and the clock of the state."""
        return self.contents(), self.last_access.clamp(min=0), self.clock


class _Run(NamedTuple):
    """What a sequence leaves: outputs, the state's parts, and for the backward pass the rest."""

    outputs: Tensor
    after: tuple[Tensor, ...]
    tape: list[tuple[Control, _Write, _Read]]
    raws: Tensor
    contents: Tensor
    holds: Tensor | None


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
    plan: Plan,
) -> _Run:
    """Runs the sequence; `from_input` is `[T, B, 4 H]`, the inputs' share in the controller's gates."""
    memory = _Memory(contents, last_access, clock, *slots_read.shape[1:])
    slots_read = slots_read.nan_to_num(0).round().clamp(0, contents.shape[1] - 1).long()
    feedback = torch.cat([hidden, reads.flatten(1)], dim=1)
    tape, raws, outputs = [], [], []
    for step, gates in enumerate(from_input):
        if plan.resets is not None and plan.begins[step]:
            where = plan.resets[step].unsqueeze(1)
            memory.reset(where)
            feedback, cell = feedback.masked_fill(where, 0), cell.masked_fill(where, 0)
            slots_read, weights = (part.masked_fill(where.unsqueeze(2), 0) for part in (slots_read, weights))
        control, cell = run_control(torch.addmm(gates, feedback, weight_feedback.t()), feedback, cell)
        raw = torch.addmm(bias_interface, control.hidden, weight_interface.t())
        write, read, reads = memory.step(interpret(raw, plan, contents.shape[2]), slots_read, weights)
        slots_read, weights = read.slots, read.weights
        feedback = torch.cat([control.hidden, reads.flatten(1)], dim=1)
        tape.append((control, write, read))
        raws.append(raw)
        outputs.append(feedback)
    contents, last_access, clock = memory.after()
    # What earlier episodes left stays for the backward pass, and does not go into the state.
    holds = (memory.scales != 0).unsqueeze(2) if any(plan.begins) else None
    after = contents if holds is None else _only(contents, holds)
    # Cloned: an output on its own tape would never be freed.
    state = (slots_read.to(contents.dtype), weights.clone(), reads, control.hidden.clone(), cell)
    return _Run(torch.stack(outputs), (after, last_access, clock, *state), tape, torch.stack(raws), contents, holds)


def run_sparse(*tensors: Tensor, plan: Plan) -> tuple[Tensor, ...]:
    """Returns outputs and the state's parts, as `SparseSequence` has them."""
    if is_transformed():
        return _plain(*tensors, plan=plan)
    found: tuple[Tensor, ...] = SparseSequence.apply(*tensors, plan)  # type: ignore[no-untyped-call]
    return found


def _plain(*arguments: Any, plan: Plan) -> tuple[Tensor, ...]:
    """`SparseSequence` as plain operators of torch, which keep a memory for each step."""
    run = _run(*arguments, plan)  # type: ignore[call-arg]
    return run.outputs, *run.after


class SparseSequence(Function):
    """Outputs `[T, B, H + R * M]` and the state's parts after the last step, see `sparse.SamState`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Runs the sequence; the arguments are those of `_run`."""
        *tensors, plan = arguments
        # The caller may change the resets before the backward pass; if it changes the tensors, autograd says so.
        plan = plan._replace(resets=None if plan.resets is None else plan.resets.clone())
        run = _run(*tensors, plan)  # type: ignore[call-arg]
        ctx.save_for_backward(*tensors, run.raws, run.contents)
        ctx.tape, ctx.plan, ctx.holds = run.tape, plan, run.holds
        _, last_access, clock, slots_read, *_ = run.after
        ctx.mark_non_differentiable(last_access, clock, slots_read)
        ctx.set_materialize_grads(False)
        return run.outputs, *run.after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Rolls the memory back from the last step to the first."""
        *tensors, raws, contents = ctx.saved_tensors
        if is_backward_transformed():
            plain = partial(_plain, plan=ctx.plan)
            return *differentiate(plain, tensors, ctx.needs_input_grad[:-1], gradients), None
        with without_autocast(contents.device):
            return _roll_back(ctx, tensors, raws, contents, gradients)


def _roll_back(
    ctx: Any, tensors: Sequence[Tensor], raws: Tensor, contents: Tensor, gradients: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    _, weight_feedback, weight_interface, *_ = tensors
    tape, plan = ctx.tape, ctx.plan
    d_outputs, d_contents, _, _, _, d_weights, d_reads, d_hidden, d_cell = gradients
    rolled = _Rolled(contents, d_contents, ctx.holds)
    control, _, read = tape[-1]
    d_weights = torch.zeros_like(read.weights) if d_weights is None else d_weights
    d_hidden = torch.zeros_like(control.hidden) if d_hidden is None else d_hidden
    d_cell = torch.zeros_like(control.hidden) if d_cell is None else d_cell
    size = control.hidden.shape[1]
    d_reads = control.feedback.new_zeros(control.feedback[:, size:].shape) if d_reads is None else d_reads
    d_feedback = torch.cat([d_hidden, d_reads.flatten(1)], dim=1)
    all_said = interpret(raws, plan, contents.shape[2])
    slopes = slopes_of(raws, all_said, plan)
    all_gates, all_raws = [], []
    for step in reversed(range(len(tape))):
        control, write, read = tape[step]
        said = Said(*(part[step] for part in all_said))
        if d_outputs is not None:
            d_feedback = d_feedback + d_outputs[step]
        d_reads = d_feedback[:, size:].unflatten(1, said.queries.shape[1:])
        d_queries, d_strengths = rolled.read(said, read, d_reads, d_weights)
        d_adds, d_gates, d_weights = rolled.write(said, write)
        d_raw = torch.cat([d_queries.flatten(1), d_adds.flatten(1), d_strengths, d_gates], dim=1) * slopes[step]
        d_hidden = torch.addmm(d_feedback[:, :size], d_raw, weight_interface)
        d_gates, d_cell = control_backward(control, d_hidden, d_cell)
        d_feedback = d_gates @ weight_feedback
        if plan.resets is not None and plan.begins[step]:
            where = plan.resets[step].unsqueeze(1)
            d_feedback, d_cell = d_feedback.masked_fill(where, 0), d_cell.masked_fill(where, 0)
            d_weights = d_weights.masked_fill(where.unsqueeze(2), 0)
        all_gates.append(d_gates)
        all_raws.append(d_raw)
    d_gates, d_raws = torch.stack(all_gates[::-1]), torch.cat(all_raws[::-1])
    d_weight_feedback = d_gates.flatten(0, 1).t() @ torch.cat([control.feedback for control, _, _ in tape])
    d_weight_interface = d_raws.t() @ torch.cat([control.hidden for control, _, _ in tape])
    d_hidden, d_reads = d_feedback[:, :size], d_feedback[:, size:].unflatten(1, all_said.queries.shape[2:])
    of_state = (rolled.gradient(), None, None, None, d_weights, d_reads, d_hidden, d_cell)
    return d_gates, d_weight_feedback, d_weight_interface, d_raws.sum(0), *of_state, None


class _Rolled:
    """The memory and its gradient in the backward pass, rolled back in place; of contents that count alone."""

    def __init__(self, contents: Tensor, d_contents: Tensor | None, holds: Tensor | None):
        self.shape = contents.shape
        self.flat = contents.clone().flatten(0, 1)
        if d_contents is None:
            self.d_flat = torch.zeros_like(self.flat)
        else:
            self.d_flat = (d_contents.clone() if holds is None else d_contents.masked_fill(~holds, 0)).flatten(0, 1)

    def read(self, said: Said, read: _Read, d_reads: Tensor, d_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients of queries and strengths; `d_weights` is that of what the next step writes."""
        rows = _held(self.flat.index_select(0, read.rows), read)  # [B, R, K, M]
        query, weights = said.queries.unsqueeze(2), read.weights
        d_weights = d_weights + (rows * d_reads.unsqueeze(2)).sum(3)
        d_scores = weights * (d_weights - (weights * d_weights).sum(2, keepdim=True))
        query_scale = _reciprocal_norms(query)  # [B, R, 1]
        scales = _reciprocal_norms(rows)
        both = query_scale * scales
        cosines = (rows * query).sum(3) * both
        d_strengths = (d_scores * cosines).sum(2)
        d_cosines = d_scores * said.strengths.unsqueeze(2)
        d_products, shrinks = d_cosines * both, d_cosines * cosines
        d_queries = (d_products.unsqueeze(3) * rows).sum(2)
        d_queries = d_queries - said.queries * (shrinks * query_scale.square()).sum(2, keepdim=True)
        d_rows = d_products.unsqueeze(3) * query - rows * (shrinks * scales.square()).unsqueeze(3)
        d_rows = d_rows + weights.unsqueeze(3) * d_reads.unsqueeze(2)
        self.d_flat.index_add_(0, read.rows, _held(d_rows.flatten(0, 2), read).flatten(0, 2))
        return d_queries, d_strengths

    def write(self, said: Said, write: _Write) -> tuple[Tensor, Tensor, Tensor]:
        """Takes a write back; returns the gradients of adds, of both gates `[B, 2 R]`, and of the last weights."""
        d_rows = self.d_flat.index_select(0, write.rows)
        self.flat.index_copy_(0, write.rows, write.contents)
        self.d_flat.index_copy_(0, write.rows, d_rows.masked_fill(~write.counted, 0))
        last, gate = write.last_weights, said.write_gates
        d_rows = d_rows.view(*last.shape[:2], 1 + last.shape[2], d_rows.shape[1])  # [B, R, 1 + K, M]
        d_adds = (write_shares(said, last).unsqueeze(3) * d_rows).sum(2)
        d_shares = (d_rows * said.adds.unsqueeze(2)).sum(3)
        d_wiped, d_last = d_shares[..., 0], d_shares[..., 1:]
        by_last = (d_last * last).sum(2)
        d_gate = torch.lerp(d_wiped, by_last, said.interpolation_gates)
        d_interpolation = gate * (by_last - d_wiped)
        d_last = d_last * (gate * said.interpolation_gates).unsqueeze(2)
        return d_adds, torch.cat([d_gate, d_interpolation], dim=1), d_last

    def gradient(self) -> Tensor:
        """Returns the gradient of the memory as it is now rolled back."""
        return self.d_flat.view(self.shape)


def largest(values: Tensor, count: int) -> Tensor:
    """Returns where the `count` largest of `values` `[B, N]` or `[B, R, N]` are, the largest first.

    In a large memory only the blocks with the largest maxima are looked into: no other can hold any of them.
    """
    blocks, rest = divmod(values.shape[-1], BLOCK)
    if rest or blocks < 4 * count:
        return values.topk(count, dim=-1).indices
    blocked = values.unflatten(-1, (blocks, BLOCK))
    best = blocked.amax(-1).topk(count, dim=-1, sorted=False).indices
    candidates = blocked.gather(-2, best.unsqueeze(-1).expand(*best.shape, BLOCK)).flatten(-2)
    within = candidates.topk(count, dim=-1).indices
    return torch.add(within % BLOCK, best.gather(-1, within // BLOCK), alpha=BLOCK)


def write_shares(said: Said, last_weights: Tensor) -> Tensor:
    """Returns the write weights (equation 5) of the wiped slot and of those read last, `[B, R, 1 + K]`."""
    gate, interpolation = said.write_gates.unsqueeze(2), said.interpolation_gates.unsqueeze(2)
    return gate * torch.cat([1 - interpolation, interpolation * last_weights], dim=2)


def _reciprocal_norms(rows: Tensor) -> Tensor:
    """Returns one over the norms of the last dimension, above zero."""
    return torch.rsqrt((rows * rows).sum(-1) + NORM_EPSILON)


def _scales(rows: Tensor) -> Tensor:
    """Returns the reciprocal norms of what slots hold, which 0 is not: not even where a norm is infinite."""
    return _reciprocal_norms(rows).clamp_min(torch.finfo(rows.dtype).tiny)


def _only(contents: Tensor, holds: Tensor) -> Tensor:
    """Returns contents `[B, N, M]`, 0 where not `holds` `[B, N, 1]`; of finite ones by a product: in a fifth."""
    product = contents * holds
    if host_sees(contents.device) and bool(product.sum().isfinite()):
        return product
    return contents.masked_fill(~holds, 0)


def _cosines(queries: Tensor, rows: Tensor) -> Tensor:
    """Returns the cosines `[B, R, K]` between queries `[B, R, M]` and rows `[B, R, K, M]`."""
    products = (rows * queries.unsqueeze(2)).sum(3)
    return products * _reciprocal_norms(queries).unsqueeze(2) * _reciprocal_norms(rows)


def _held(rows: Tensor, read: _Read) -> Tensor:
    """Returns rows `[B * R * K, M]` as `[B, R, K, M]`, zero where the slot holds nothing."""
    return rows.view(*read.holds.shape, rows.shape[1]).masked_fill(~read.holds.unsqueeze(3), 0)
