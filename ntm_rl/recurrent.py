"""LSTM, GRU and Elman cores on torch's fused modules: the baselines of every comparison."""

import itertools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.core import MemoryCore, host_sees, register_core, require_at_least, without_autocast
from ntm_rl.errors import InputError
from ntm_rl.kernels.fused import is_fused, run_lstm
from ntm_rl.transforms import is_transformed

# A call of a torch module costs about as much as so many steps of one sequence (measured forward and backward).
STEPS_OF_A_CALL = 100
# Up to so many sequences a single step is quicker in the kernel, which does not lay its weights out, than in torch.
FEW = 32


class RecurrentState(NamedTuple):
    """Parts of the state: `hidden` and, for the LSTM, `cell`, both `[B, layers, H]`."""

    hidden: Tensor
    cell: Tensor | None


class _TorchRecurrentCore(MemoryCore):
    """What these cores share: a torch module run over whole sequences, resets included.

    Where no reset falls the sequence is one call. Otherwise it is cut at the resets into pieces that do not know of
    each other, and all pieces run side by side as one padded block: still no loop over steps. (torch's own packed
    sequences would save the padding but take four times as long on a CPU.) To find the resets the host must look at
    them; on a device where it would have to wait for that, sequences with resets run step by step.
    """

    parts: int  # state tensors of the torch module: 2 for the LSTM, 1 for the others
    network: nn.LSTM | nn.GRU | nn.RNN
    run_cell: Callable[..., Tensor]  # one step of one layer, where the state is one tensor

    def _set_sizes(self, input_size: int, hidden_size: int, layers: int) -> None:
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, layers=layers)
        # torch's modules refuse NumPy's integers, of which sizes of Gymnasium's spaces are made.
        self.input_size, self.output_size, self.layers = int(input_size), int(hidden_size), int(layers)
        self.state_size = 1 + self.parts * self.layers * self.output_size

    def forward(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `MemoryCore.forward`."""
        outputs, after = self._run(inputs, state, resets, wants_state=True)
        assert after is not None
        return outputs, after

    def outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> Tensor:
        """See `MemoryCore.outputs`."""
        return self._run(inputs, state, resets, wants_state=False)[0]

    def unpack(self, state: Tensor) -> RecurrentState:
        """Returns the hidden (and cell) state of a flat state `[B, S]`."""
        parts = state[:, 1:].unflatten(1, (self.parts, self.layers, self.output_size))
        return RecurrentState(parts[:, 0], parts[:, 1] if self.parts == 2 else None)

    def _run(
        self, inputs: Tensor, state: Tensor, resets: Tensor | None, wants_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        inputs, state = self.prepare(inputs, state, resets, next(self.parameters()))
        with without_autocast(inputs.device):
            return self._run_sequence(inputs, state, resets, wants_state)

    def _run_sequence(
        self, inputs: Tensor, state: Tensor, resets: Tensor | None, wants_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        if resets is not None:
            state = state.masked_fill(resets[0].unsqueeze(-1), 0)
        if len(inputs) == 1 and not torch.is_grad_enabled():
            output, after = self._step(inputs[0], state)
            return output.unsqueeze(0), after
        if is_transformed():  # vmap knows cells, not torch's modules
            return self._run_steps(inputs, state, resets)
        if resets is not None and len(inputs) > 1:
            if not host_sees(resets.device):
                return self._run_steps(inputs, state, resets)
            if bool(resets[1:].any()):
                return self._run_pieces(inputs, state, resets, wants_state)
        outputs, last = self.network(inputs, self._split(state))
        return outputs, self._join(last)

    def _step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step by torch's cell functions, which spare a rollout the overhead of the sequence module."""
        last = state[:, 1:].chunk(self.parts * self.layers, dim=1)
        hiddens, cells = [], []
        run_lstm_cell = _plain_lstm_cell if is_transformed() else torch.lstm_cell
        for layer, weights in enumerate(self.network.all_weights):
            if self.parts == 2:
                inputs, cell = run_lstm_cell(inputs, (last[layer], last[self.layers + layer]), *weights)
                cells.append(cell)
            else:
                inputs = self.run_cell(inputs, last[layer], *weights)
            hiddens.append(inputs)
        return inputs, torch.cat([torch.ones_like(state[:, :1]), *hiddens, *cells], dim=1)

    def _run_steps(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs = []
        for step, step_inputs in enumerate(inputs):
            if resets is not None:
                state = state.masked_fill(resets[step].unsqueeze(1), 0)
            output, state = self._step(step_inputs, state)
            outputs.append(output)
        return torch.stack(outputs), state

    def _run_pieces(
        self, inputs: Tensor, state: Tensor, resets: Tensor, wants_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        pieces = _Pieces(resets, wants_state)
        flat = inputs.flatten(0, 1)
        begin = state.new_zeros(len(pieces.lengths), self.state_size)
        begin[pieces.first_of_sequence] = state
        running, blocks, ended = self._split(begin), [], []
        for band in pieces.bands:
            running = _narrow(running, band.width)
            # Past a piece's end comes 0: its gradient is 0 then, which times NaN it were not.
            output, running = self.network(flat[band.source].masked_fill(band.is_over, 0), running)
            blocks.append(output.flatten(0, 1))
            if wants_state and len(band.ending):
                ended.append(self._join(running)[pieces.last_of_sequence[band.ending]])
        outputs = torch.cat(blocks)[pieces.position].unflatten(0, resets.shape)
        return outputs, torch.cat(ended)[pieces.order_of_ends] if wants_state else None

    def _split(self, state: Tensor) -> Any:
        parts = state[:, 1:].unflatten(1, (self.parts, self.layers, self.output_size)).permute(1, 2, 0, 3)
        return tuple(part.contiguous() for part in parts) if self.parts == 2 else parts[0].contiguous()

    def _join(self, after: Any) -> Tensor:
        parts = torch.stack(after) if self.parts == 2 else after.unsqueeze(0)  # [parts, layers, B, H]
        flat = parts.permute(2, 0, 1, 3).flatten(1)
        return torch.cat([flat.new_ones(len(flat), 1), flat], dim=1)


def _plain_lstm_cell(
    inputs: Tensor,
    last: tuple[Tensor, Tensor],
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias_input: Tensor,
    bias_hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    """`torch.lstm_cell`, whose weights vmap cannot batch, as operators that it can."""
    hidden, cell = last
    gates = F.linear(inputs, weight_input, bias_input) + F.linear(hidden, weight_hidden, bias_hidden)
    input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
    cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
    return torch.sigmoid(output_gate) * torch.tanh(cell), cell


def _narrow(states: Any, width: int) -> Any:
    if isinstance(states, tuple):
        return tuple(part[:, :width].contiguous() for part in states)
    return states[:, :width].contiguous()


class _Band(NamedTuple):
    """Some rows of the block of pieces: step numbers counted from each piece's own beginning.

    Attributes:
        source: index in the flattened `[T * B]` sequences, `[rows, width]`.
        is_over: whether a piece has ended before, `[rows, width, 1]`.
        width: pieces that are run in these rows; those that are done are left out.
        ending: sequences whose last piece ends with the last row.
    """

    source: Tensor
    is_over: Tensor
    width: int
    ending: Tensor


class _Pieces:
    """Where the pieces of `[T, B]` sequences lie that begin at t = 0 or at a reset; the longest come first.

    Attributes:
        lengths: steps of each piece.
        first_of_sequence: for each of the B sequences the piece that begins at t = 0.
        last_of_sequence: for each of the B sequences the piece that ends at t = T - 1.
        bands: rows that are run in one call. A new band begins where leaving out the pieces that are done spares
            more than a call costs, and after each end of a sequence if `at_ends`, where a state has to be taken out.
        position: for each of the `[T * B]` steps the index in the outputs of all bands, flattened and joined.
        order_of_ends: for each of the B sequences its place among the bands' `ending`.
    """

    def __init__(self, resets: Tensor, at_ends: bool):
        steps, batch = resets.shape
        begins = resets.clone()
        begins[0] = True
        sequence, start = begins.t().nonzero(as_tuple=True)  # sequence by sequence, in time order
        end = torch.full_like(start, steps)
        end[:-1] = torch.where(sequence[1:] == sequence[:-1], start[1:], steps)
        self.lengths, by_length = (end - start).sort(descending=True)
        rank = by_length.argsort()
        per_sequence = begins.sum(0)
        last = per_sequence.cumsum(0) - 1
        first = last - per_sequence + 1
        self.first_of_sequence, self.last_of_sequence = rank[first], rank[last]

        sequence_ends = self.lengths[self.last_of_sequence]
        time = torch.arange(steps, device=resets.device)
        active = (self.lengths > time.unsqueeze(1)).sum(1).tolist()  # pieces not yet done, by row
        rows = _band_rows(active, set(sequence_ends.tolist()) if at_ends else set())
        source = (start[by_length] + time.unsqueeze(1)).clamp(max=steps - 1) * batch + sequence[by_length]
        is_over = (self.lengths <= time.unsqueeze(1)).unsqueeze(2)
        self.bands = [
            _Band(
                source[top:bottom, : active[top]],
                is_over[top:bottom, : active[top]],
                active[top],
                (sequence_ends == bottom).nonzero().flatten(),
            )
            for top, bottom in rows
        ]
        if at_ends:
            self.order_of_ends = torch.cat([band.ending for band in self.bands]).argsort()
        offsets = [0, *itertools.accumulate(active[top] for top, bottom in rows for _ in range(top, bottom))]
        piece = first + begins.cumsum(0) - 1  # [T, B]
        row = time.unsqueeze(1) - start[piece]
        self.position = (torch.tensor(offsets, device=resets.device)[row] + rank[piece]).flatten()


def _band_rows(active: list[int], ends: set[int]) -> list[tuple[int, int]]:
    """Cuts the rows that have active pieces into bands `[top, bottom)`: at `ends`, and where it spares enough steps."""
    longest = sum(count > 0 for count in active)
    return [
        band
        for top, bottom in itertools.pairwise(sorted({0, longest, *(row for row in ends if row < longest)}))
        for band in _cut(active, top, bottom)
    ]


def _cut(active: list[int], top: int, bottom: int) -> list[tuple[int, int]]:
    spared = [(active[top] - active[row]) * (bottom - row) for row in range(top, bottom)]
    most = max(spared)
    if most <= STEPS_OF_A_CALL:
        return [(top, bottom)]
    row = top + spared.index(most)
    return [*_cut(active, top, row), *_cut(active, row, bottom)]


@register_core("lstm")
class Lstm(_TorchRecurrentCore):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), `torch.nn.LSTM`.

    On a CPU sequences are run by a fused kernel, resets inside, for which the torch module holds the weights; it is
    also the kernel's specification, and what runs elsewhere and where no compiler is.
    """

    parts = 2

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Stacked layers."] = 1,
    ):
        super().__init__()
        self._set_sizes(input_size, hidden_size, layers)
        self.network = nn.LSTM(self.input_size, self.output_size, self.layers)

    def _run_sequence(
        self, inputs: Tensor, state: Tensor, resets: Tensor | None, wants_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        if not is_fused("auto", inputs.device):
            return super()._run_sequence(inputs, state, resets, wants_state)
        if len(inputs) == 1 and not torch.is_grad_enabled():
            if len(state) > FEW:
                return super()._run_sequence(inputs, state, resets, wants_state)
            weights = [weight for layer in self.network.all_weights for weight in layer]
            stepped: tuple[Tensor, Tensor] = torch.ops.ntm_rl.lstm_step.default(inputs, state, resets, weights)
            return stepped
        last = state[:, 1:].chunk(2 * self.layers, dim=1)
        hiddens, cells = [], []
        for layer, (weight_input, weight_hidden, bias_input, bias_hidden) in enumerate(self.network.all_weights):
            if (
                bias_input.shape != bias_hidden.shape or bias_input.dtype != bias_hidden.dtype
            ):  # their sum would broadcast
                shown = " and ".join(f"{list(bias.shape)}, {bias.dtype}" for bias in (bias_input, bias_hidden))
                raise InputError(f"biases of layer {layer} of shape {shown}: must be alike, [{4 * self.output_size}]")
            arguments = (inputs, last[layer], last[self.layers + layer], resets, weight_input, weight_hidden)
            inputs, cell = run_lstm(*arguments, bias_input + bias_hidden)
            if wants_state:
                hiddens.append(inputs[-1])
                cells.append(cell)
        return inputs, torch.cat([torch.ones_like(state[:, :1]), *hiddens, *cells], dim=1) if wants_state else None


@register_core("gru")
class Gru(_TorchRecurrentCore):
    """Gated recurrent unit (Cho et al. 2014), `torch.nn.GRU`."""

    parts = 1
    run_cell = staticmethod(torch.gru_cell)

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Stacked layers."] = 1,
    ):
        super().__init__()
        self._set_sizes(input_size, hidden_size, layers)
        self.network = nn.GRU(self.input_size, self.output_size, self.layers)


@register_core("elman")
class Elman(_TorchRecurrentCore):
    """Elman's simple recurrent network (1990), `torch.nn.RNN`: one tanh layer that sees its last output."""

    parts = 1
    run_cell = staticmethod(torch.rnn_tanh_cell)

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Stacked layers."] = 1,
    ):
        super().__init__()
        self._set_sizes(input_size, hidden_size, layers)
        self.network = nn.RNN(self.input_size, self.output_size, self.layers)
