"""LSTM, GRU and Elman cores on torch's fused modules: the baselines of every comparison."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import MemoryCore
from ntm_rl.cores.devices import host_sees, without_autocast
from ntm_rl.cores.pieces import _Pieces
from ntm_rl.cores.registry import register_core
from ntm_rl.errors import InputError
from ntm_rl.kernels.fused import is_fused, run_lstm
from ntm_rl.transforms import is_transformed

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
