"""LSTM and GRU cores on torch's fused modules: the baselines of every comparison."""

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ntm_rl.core import MemoryCore, register_core, require_at_least


class RecurrentState(NamedTuple):
    """Parts of an LSTM's or GRU's state: `hidden` and, for the LSTM, `cell`, both `[B, layers, H]`."""

    hidden: Tensor
    cell: Tensor | None


class _TorchRecurrentCore(MemoryCore):
    """What the two cores share: a torch module run over whole sequences, resets included.

    Where no reset falls the sequence is one call. Otherwise it is cut at the resets into pieces that do not know of
    each other, and all pieces run side by side as one packed sequence: still one call, still no loop over steps.
    """

    parts: int  # state tensors of the torch module: 2 for the LSTM, 1 for the GRU
    network: nn.LSTM | nn.GRU

    def _set_sizes(self, input_size: int, hidden_size: int, layers: int) -> None:
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, layers=layers)
        self.input_size = input_size
        self.output_size = hidden_size
        self.layers = layers
        self.state_size = 1 + self.parts * layers * hidden_size

    def forward(self, inputs: Tensor, state: Tensor, resets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `MemoryCore.forward`."""
        if resets is not None:
            state = state.masked_fill(resets[0].unsqueeze(-1), 0)
        dtype = next(self.parameters()).dtype
        with torch.autocast(inputs.device.type, enabled=False):
            inputs, state = inputs.to(dtype), state.to(dtype)
            if resets is not None and len(inputs) > 1 and bool(resets[1:].any()):
                return self._run_pieces(inputs, state, resets)
            outputs, after = self.network(inputs, self._split(state))
            return outputs, self._join(after)

    def unpack(self, state: Tensor) -> RecurrentState:
        """Returns the hidden (and cell) state of a flat state `[B, S]`."""
        parts = state[:, 1:].unflatten(1, (self.parts, self.layers, self.output_size))
        return RecurrentState(parts[:, 0], parts[:, 1] if self.parts == 2 else None)

    def _run_pieces(self, inputs: Tensor, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        steps, batch, _ = inputs.shape
        pieces = _Pieces(resets)
        piece_states = torch.zeros(len(pieces.lengths), self.state_size, dtype=state.dtype, device=state.device)
        piece_states[pieces.first_of_sequence] = state
        packed = PackedSequence(inputs.flatten(0, 1)[pieces.order], pieces.batch_sizes)
        outputs, after = self.network(packed, self._split(piece_states))
        restored = torch.empty(steps * batch, self.output_size, dtype=outputs.data.dtype, device=inputs.device)
        restored[pieces.order] = outputs.data
        return restored.unflatten(0, (steps, batch)), self._join(after)[pieces.last_of_sequence]

    def _split(self, state: Tensor) -> Any:
        parts = state[:, 1:].unflatten(1, (self.parts, self.layers, self.output_size)).permute(1, 2, 0, 3)
        return tuple(part.contiguous() for part in parts) if self.parts == 2 else parts[0].contiguous()

    def _join(self, after: Any) -> Tensor:
        parts = torch.stack(after) if self.parts == 2 else after.unsqueeze(0)  # [parts, layers, B, H]
        flat = parts.permute(2, 0, 1, 3).flatten(1)
        return torch.cat([flat.new_ones(len(flat), 1), flat], dim=1)


class _Pieces:
    """Where the pieces of `[T, B]` sequences lie that begin at t = 0 or at a reset, longest first.

    Attributes:
        lengths: steps of each piece.
        order: for each element of the packed data its index in the flattened `[T * B]` block.
        batch_sizes: pieces still running at each packed step, on the CPU as torch wants it.
        first_of_sequence: for each of the B sequences the piece that begins at t = 0.
        last_of_sequence: for each of the B sequences the piece that ends at t = T - 1.
    """

    def __init__(self, resets: Tensor):
        steps, batch = resets.shape
        device = resets.device
        begins = resets.clone()
        begins[0] = True
        sequence, start = begins.t().nonzero(as_tuple=True)  # sequence by sequence, in time order
        is_last = torch.ones_like(sequence, dtype=torch.bool)
        is_last[:-1] = sequence[1:] != sequence[:-1]
        end = torch.full_like(start, steps)
        end[:-1] = torch.where(is_last[:-1], steps, start[1:])
        lengths, rank = (end - start).sort(descending=True, stable=True)
        sequence, start, is_last = sequence[rank], start[rank], is_last[rank]
        piece = torch.arange(len(lengths), device=device)

        self.lengths = lengths
        time = torch.arange(int(lengths[0]), device=device).unsqueeze(1)  # [longest, 1]
        running = time < lengths  # [longest, pieces]
        self.batch_sizes = running.sum(1).cpu()
        self.order = ((start + time) * batch + sequence)[running]
        self.first_of_sequence = torch.empty(batch, dtype=torch.long, device=device)
        self.first_of_sequence[sequence[start == 0]] = piece[start == 0]
        self.last_of_sequence = torch.empty(batch, dtype=torch.long, device=device)
        self.last_of_sequence[sequence[is_last]] = piece[is_last]


@register_core("lstm")
class Lstm(_TorchRecurrentCore):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), `torch.nn.LSTM`."""

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
        self.network = nn.LSTM(input_size, hidden_size, layers)


@register_core("gru")
class Gru(_TorchRecurrentCore):
    """Gated recurrent unit (Cho et al. 2014), `torch.nn.GRU`."""

    parts = 1

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Stacked layers."] = 1,
    ):
        super().__init__()
        self._set_sizes(input_size, hidden_size, layers)
        self.network = nn.GRU(input_size, hidden_size, layers)
