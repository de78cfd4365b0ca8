"""The fused sequences as differentiable functions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ntm_rl.errors import InputError
from ntm_rl.kernels.loader import load_kernels
from ntm_rl.transforms import differentiate, is_backward_transformed, is_transformed

Plain = Callable[..., tuple[Tensor, Tensor]]  # a sequence as plain operators


def is_fused(backend: str, device: torch.device) -> bool:
    """Whether a core with this `backend` runs its kernel.

    Raises:
        InputError: `backend` is fused and the kernel cannot run.
    """
    if backend == "fused" and device.type != "cpu":
        raise InputError(f"backend = 'fused': runs only on the CPU, not on {device}; use auto or eager")
    if backend not in ("auto", "fused") or device.type != "cpu" or is_transformed():
        return False
    if _load():
        return True
    if backend == "fused":
        raise InputError("backend = 'fused': the kernel could not be built (see the warning); use auto or eager")
    return False


def can_step(inputs: Tensor) -> bool:
    """Whether a core whose kernel runs single steps without gradients runs it for these inputs."""
    is_step = len(inputs) == 1 and not torch.is_grad_enabled()
    return is_step and not torch.compiler.is_compiling() and is_fused("auto", inputs.device)


def _load() -> bool:
    if torch.compiler.is_compiling():
        from ntm_rl.kernels.operators import load_for_compile  # takes seconds: it imports torch.compile

        return bool(load_for_compile())
    return load_kernels()


def lay_out(weights: Sequence[Tensor]) -> Tensor:
    """Returns float32 matrices `[n, k]` as the kernels read them, for steps in which they stay the same."""
    laid_out: Tensor = torch.ops.ntm_rl.lay_out.default(weights)
    return laid_out


def run_fused(
    kind: str, tensors: Sequence[Tensor | None], sizes: tuple[int, ...], clip: float, plain: Plain
) -> tuple[Tensor, Tensor]:
    """Runs the kernel of a `kind` of core over a whole sequence, see `FusedSequence`."""
    if not torch.is_grad_enabled():
        outputs, last, _ = getattr(torch.ops.ntm_rl, f"{kind}_forward").default(*tensors, sizes, clip, False)
    elif torch.compiler.is_compiling():
        outputs, last, _ = getattr(torch.ops.ntm_rl, f"{kind}_sequence").default(*tensors, sizes, clip)
    else:
        outputs, last = FusedSequence.apply(*tensors, kind, sizes, clip, plain)  # type: ignore[no-untyped-call]
    return outputs, last


class FusedSequence(torch.autograd.Function):
    """Runs a whole sequence in one call; the eager cores `ntm` and `dnc` are the specification.

    Inputs: `inputs` `[T, B, I]`, `state` `[B, S]`, `start` `[1, S]` or None for zeros, `resets` `[T, B]` bool or None;
    the controller's weight of inputs `[G, I]`, bias `[G]` and weight of the feedback `[G, F]`; weight and bias of the
    interface layer; the kind ("ntm" or "dnc"), the sizes, the clipping range, and the same sequence as plain operators
    for second derivatives. Outputs: `[T, B, O]` and the last state `[B, S]`.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        *tensors, kind, sizes, clip, plain = arguments
        outputs, last, kept = getattr(torch.ops.ntm_rl, f"{kind}_forward").default(*tensors, sizes, clip, True)
        ctx.kind, ctx.sizes, ctx.clip, ctx.plain = kind, sizes, clip, plain
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, outputs, kept)
        return outputs, last

    @staticmethod
    def backward(ctx: Any, d_outputs: Tensor | None, d_last: Tensor | None) -> tuple[Any, ...]:
        """See the class."""
        saved = ctx.saved_tensors
        if is_backward_transformed():
            found = differentiate(ctx.plain, saved[:9], ctx.needs_input_grad[:9], (d_outputs, d_last))
            return (*found, None, None, None, None)
        needs = ctx.needs_input_grad[:3]
        found = sequence_gradients(ctx.kind, needs, saved, ctx.sizes, ctx.clip, d_outputs, d_last)
        return (*found, None, None, None, None)


def sequence_gradients(
    kind: str,
    needs: Sequence[bool],
    saved: Sequence[Any],
    sizes: Sequence[int],
    clip: float,
    d_outputs: Tensor | None,
    d_last: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of the nine tensors of a sequence (see `FusedSequence`).

    Args:
        kind: Kind of the core.
        needs: Whether inputs, state and start need a gradient.
        saved: The nine tensors, the outputs and the values kept for the backward pass.
        sizes: The kernel's sizes.
        clip: The clipping range.
        d_outputs: Gradient of the outputs, or None.
        d_last: Gradient of the last state, or None.
    """
    inputs, state, start, resets, weight_input, _, weight_feedback, weight_interface, _, outputs, kept = saved
    read = (inputs, state, start, resets, weight_input, weight_feedback, weight_interface, outputs, kept)
    run_backward = getattr(torch.ops.ntm_rl, f"{kind}_backward").default
    d_inputs, d_state, d_start, *d_weights = run_backward(d_outputs, d_last, needs, *read, sizes, clip)
    given = (d_inputs, d_state, d_start.sum(0, keepdim=True))
    d_given = (gradient if is_needed else None for gradient, is_needed in zip(given, needs, strict=True))
    return (*d_given, None, *d_weights)


def run_recurrent(*tensors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Runs an LSTM or GRU layer over a whole sequence, see `FusedRecurrent`."""
    if torch.compiler.is_compiling() and _load():
        operators = torch.ops.ntm_rl
        operator = operators.recurrent_sequence if torch.is_grad_enabled() else operators.recurrent_forward
        outputs, last_cell, *_ = operator.default(*tensors)
    else:
        outputs, last_cell = FusedRecurrent.apply(*tensors)  # type: ignore[no-untyped-call]
    return outputs, last_cell


class FusedRecurrent(torch.autograd.Function):
    """Runs a layer over a whole sequence; torch's own, restarted at each reset, is the specification.

    Inputs: `inputs` `[T, B, I]`, hidden state and cell state (None: a GRU) `[B, H]`, `resets` `[T, B]` bool or None,
    and torch's two weights and two biases. Outputs: `[T, B, H]` and the last cell `[B, H]` (of a GRU `[0]`).
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        outputs, last_cell, *kept = torch.ops.ntm_rl.recurrent_forward.default(*tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *kept)
        return outputs, last_cell

    @staticmethod
    def backward(ctx: Any, d_outputs: Tensor | None, d_last_cell: Tensor | None) -> tuple[Any, ...]:
        """See the class."""
        saved = ctx.saved_tensors
        if is_backward_transformed():
            return differentiate(_plain_layer, saved[:8], ctx.needs_input_grad, (d_outputs, d_last_cell))
        return recurrent_gradients(ctx.needs_input_grad[0], saved, d_outputs, d_last_cell)


def recurrent_gradients(
    needs_inputs: bool, saved: Sequence[Any], d_outputs: Tensor | None, d_last_cell: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of a layer's eight tensors, which `saved` has besides the values kept by the forward."""
    inputs, _, cell, resets, weight_input, weight_hidden, _, _, *kept = saved
    has_cell = cell is not None
    d_inputs, d_hidden, d_cell, *d_weights = torch.ops.ntm_rl.recurrent_backward.default(
        d_outputs, d_last_cell, needs_inputs, has_cell, inputs, resets, weight_input, weight_hidden, *kept
    )
    return d_inputs if needs_inputs else None, d_hidden, d_cell if has_cell else None, None, *d_weights


def _plain_layer(
    inputs: Tensor, hidden: Tensor, cell: Tensor | None, resets: Tensor | None, *weights: Tensor
) -> tuple[Tensor, Tensor]:
    """`FusedRecurrent` as plain operators."""
    outputs = []
    for step, step_inputs in enumerate(inputs):
        if resets is not None:
            where = resets[step].unsqueeze(1)
            hidden, cell = hidden.masked_fill(where, 0), None if cell is None else cell.masked_fill(where, 0)
        if cell is None:
            hidden = torch.gru_cell(step_inputs, hidden, *weights)
        else:
            hidden, cell = torch.lstm_cell(step_inputs, (hidden, cell), *weights)
        outputs.append(hidden)
    return torch.stack(outputs), inputs.new_empty(0) if cell is None else cell
