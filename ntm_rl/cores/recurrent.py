"""LSTM, GRU and Elman cores on torch's fused modules: baselines for cores with external memory."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.checks import require_at_least
from ntm_rl.cores.base import CoreStep, MemoryCore
from ntm_rl.cores.devices import can_read_values
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.lstm_step import lstm_step
from ntm_rl.cores.pieces import Pieces
from ntm_rl.cores.registry import register_core
from ntm_rl.kernels.fused import is_fused, lay_out, run_recurrent
from ntm_rl.transforms import is_transformed


class RecurrentState(NamedTuple):
    """Parts of the state: `hidden`, `[B, layers, H]`."""

    hidden: Tensor


class LstmState(NamedTuple):
    """Parts of an LSTM's state: `hidden` and `cell`, each `[B, layers, H]`."""

    hidden: Tensor
    cell: Tensor


class _TorchRecurrentCore(MemoryCore):
    """Base class: a torch module over whole sequences, resets included.

    A sequence without resets is one call. Otherwise it is cut at the resets into independent pieces, which run in
    parallel as one padded block without a loop over steps. (torch's packed sequences avoid the padding but take four
    times as long on a CPU.) To find the resets the host must read them; where that needs a host-device
    synchronisation, sequences with resets run step by step.
    """

    parts: int  # state tensors of the torch module: 2 for the LSTM, 1 for the others
    network_class: type[nn.LSTM | nn.GRU | nn.RNN]
    run_cell: Callable[..., Tensor]  # one step of one layer, where the state is one tensor

    def __init__(
        self,
        input_size: int,
        *,
        hidden_size: Annotated[int, "Units of each layer."] = 128,
        layers: Annotated[int, "Stacked layers."] = 1,
    ):
        super().__init__()
        require_at_least(1, input_size=input_size, hidden_size=hidden_size, layers=layers)
        # torch's modules reject NumPy integers, which sizes of Gymnasium's spaces may be.
        self.input_size, self.output_size, self.layers = int(input_size), int(hidden_size), int(layers)
        shape = (self.layers, self.output_size)
        self.layout = (
            StateLayout(LstmState, hidden=shape, cell=shape)
            if self.parts == 2
            else StateLayout(RecurrentState, hidden=shape)
        )
        self.network = self.network_class(self.input_size, self.output_size, self.layers)

    def train(self, mode: bool = True) -> Self:
        """See `nn.Module.train`; without dropout, the modes of torch's module differ only in what cuDNN refuses."""
        super().train(mode)
        self.network.train()  # in evaluation mode, cuDNN has no backward pass
        return self

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs, after = self._run_sequence(inputs, state, resets, needs_state=True)
        assert after is not None
        return outputs, after

    def _run_outputs(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> Tensor:
        return self._run_sequence(inputs, state, resets, needs_state=False)[0]

    def _run_sequence(
        self, inputs: Tensor, state: Tensor, resets: Tensor | None, needs_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        if resets is not None:
            state = state.masked_fill(resets[0].unsqueeze(-1), 0)
        if len(inputs) == 1 and not torch.is_grad_enabled():
            output, after = self._step(inputs[0], state)
            return output.unsqueeze(0), after
        if is_transformed():  # vmap supports cells, not torch's modules
            return self._run_steps(inputs, state, resets)
        if resets is not None and len(inputs) > 1:
            if not can_read_values(resets.device):
                return self._run_steps(inputs, state, resets)
            if bool(resets[1:].any()):
                return self._run_pieces(inputs, state, resets, needs_state)
        outputs, last = self.network(inputs, self._split(state))
        return outputs, self._join(last)

    def _step(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Runs one step by torch's cell functions, which have less overhead than the sequence module."""
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
        return inputs, self.layout.pack([*hiddens, *cells])

    def _run_steps(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs = []
        for step, step_inputs in enumerate(inputs):
            if resets is not None:
                state = state.masked_fill(resets[step].unsqueeze(1), 0)
            output, state = self._step(step_inputs, state)
            outputs.append(output)
        return torch.stack(outputs), state

    def _run_pieces(
        self, inputs: Tensor, state: Tensor, resets: Tensor, needs_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        pieces = Pieces(resets, needs_state)
        flat = inputs.flatten(0, 1)
        initial = state.new_zeros(len(pieces.lengths), self.state_size)
        initial[pieces.first_of_sequence] = state
        running, blocks, ended = self._split(initial), [], []
        for band in pieces.bands:
            running = _narrow(running, band.width)
            # 0 after a piece's end: a gradient of 0 times NaN would be NaN.
            output, running = self.network(flat[band.source].masked_fill(band.is_over, 0), running)
            blocks.append(output.flatten(0, 1))
            if needs_state and len(band.ending):
                ended.append(self._join(running)[pieces.last_of_sequence[band.ending]])
        outputs = torch.cat(blocks)[pieces.position].unflatten(0, resets.shape)
        return outputs, torch.cat(ended)[pieces.order_of_ends] if needs_state else None

    def _split(self, state: Tensor) -> Any:
        """Returns the torch module's state from a flat state."""
        parts = tuple(part.transpose(0, 1).contiguous() for part in self.layout.unpack(state))
        return parts if self.parts == 2 else parts[0]

    def _join(self, after: Any) -> Tensor:
        """Returns the flat state from the torch module's state."""
        parts = after if self.parts == 2 else (after,)
        return self.layout.pack([part.transpose(0, 1) for part in parts])


def _plain_lstm_cell(
    inputs: Tensor,
    last: tuple[Tensor, Tensor],
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias_input: Tensor,
    bias_hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    """`torch.lstm_cell` with batched weights, which vmap does not support there."""
    hidden, cell = last
    gates = F.linear(inputs, weight_input, bias_input) + F.linear(hidden, weight_hidden, bias_hidden)
    step = lstm_step(gates, cell)
    return step.hidden, step.cell


def _narrow(states: Any, width: int) -> Any:
    if isinstance(states, tuple):
        return tuple(part[:, :width].contiguous() for part in states)
    return states[:, :width].contiguous()


class _FusedRecurrentCore(_TorchRecurrentCore):
    """Base class: on a CPU a kernel runs whole sequences with resets.

    The torch module holds the weights, is the specification, and runs on other devices and without a compiler.
    """

    def make_step(self) -> CoreStep:
        """See `MemoryCore.make_step`."""
        weights = self._weights()
        if not is_fused("auto", weights[0].device) or weights[0].dtype != torch.float32:
            return self._run
        step, has_cell = torch.ops.ntm_rl.recurrent_step.default, self.parts == 2
        matrices: list[Tensor] = []
        for weight_input, weight_hidden in zip(weights[::4], weights[1::4], strict=True):
            gates, candidate = weight_hidden.tensor_split([2 * self.output_size])  # of a GRU, whose candidate is apart
            matrices += [weight_input, *([weight_hidden] if has_cell else [gates, candidate])]
        laid_out = lay_out(matrices)
        return lambda inputs, state, resets: step(inputs, state, resets, weights, has_cell, laid_out)

    def _weights(self) -> list[Tensor]:
        return [weight for layer in self.network.all_weights for weight in layer]

    def _run_sequence(
        self, inputs: Tensor, state: Tensor, resets: Tensor | None, needs_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        if not is_fused("auto", inputs.device):
            return super()._run_sequence(inputs, state, resets, needs_state)
        has_cell = self.parts == 2
        if len(inputs) == 1 and not torch.is_grad_enabled():
            step = torch.ops.ntm_rl.recurrent_step.default
            stepped: tuple[Tensor, Tensor] = step(inputs, state, resets, self._weights(), has_cell)
            return stepped
        last = state[:, 1:].chunk(self.parts * self.layers, dim=1)
        hiddens, cells = [], []
        for layer, weights in enumerate(self.network.all_weights):
            cell = last[self.layers + layer] if has_cell else None
            inputs, cell = run_recurrent(inputs, last[layer], cell, resets, *weights)
            if needs_state:
                hiddens.append(inputs[-1])
                cells.append(cell)
        after = [*hiddens, *cells] if has_cell else hiddens
        return inputs, self.layout.pack(after) if needs_state else None


@register_core("lstm")
class Lstm(_FusedRecurrentCore):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), `torch.nn.LSTM`."""

    parts = 2
    network_class = nn.LSTM


@register_core("gru")
class Gru(_FusedRecurrentCore):
    """Gated recurrent unit (Cho et al. 2014), `torch.nn.GRU`."""

    parts = 1
    network_class = nn.GRU
    run_cell = staticmethod(torch.gru_cell)


@register_core("elman")
class Elman(_TorchRecurrentCore):
    """Elman's simple recurrent network (1990), `torch.nn.RNN` with tanh."""

    parts = 1
    network_class = nn.RNN
    run_cell = staticmethod(torch.rnn_tanh_cell)
