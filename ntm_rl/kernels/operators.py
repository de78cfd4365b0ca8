"""Registers the kernels with torch.compile, so that graphs contain them; imported only while compiling."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ntm_rl.kernels import loader
from ntm_rl.kernels.fused import recurrent_gradients, sequence_gradients

KINDS = ("ntm", "dnc")
SEQUENCE = (
    "(Tensor inputs, Tensor state, Tensor? start, Tensor? resets, Tensor weight_input, Tensor bias, "
    "Tensor weight_feedback, Tensor weight_interface, Tensor bias_interface, int[] shape, float clip) "
    "-> (Tensor, Tensor, Tensor)"
)
RECURRENT = (
    "(Tensor inputs, Tensor hidden, Tensor? cell, Tensor? resets, Tensor weight_input, Tensor weight_hidden, "
    "Tensor bias_input, Tensor bias_hidden) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch.compile would trace the build
def load_for_compile() -> bool:
    """Loads the kernels and registers them with torch.compile; returns whether it succeeded."""
    return loader.load_kernels() and _register()


@cache
def _register() -> bool:
    for kind in KINDS:
        _register_sequence(kind)
    _register_recurrent()
    return True


def _register_sequence(kind: str) -> None:
    """Defines `<kind>_sequence`, `<kind>_forward` with a gradient, and registers the shapes of all results."""
    name = f"ntm_rl::{kind}_sequence"
    run_forward = getattr(torch.ops.ntm_rl, f"{kind}_forward").default
    sizes_of_kept = getattr(torch.ops.ntm_rl, f"{kind}_kept").default
    torch.library.define(name, SEQUENCE)

    @torch.library.impl(name, "cpu")
    def _(*arguments: Any) -> Any:
        return run_forward(*arguments, True)

    @torch.library.register_fake(f"ntm_rl::{kind}_forward")  # type: ignore[untyped-decorator]
    def fake_forward(inputs: Tensor, state: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        weight_interface, shape, keeps = others[5], others[7], others[9]
        steps, batch, _ = inputs.shape
        reads = shape[1] * shape[2]  # M * R of every memory
        computed, entering, first = sizes_of_kept(shape, inputs.dtype)
        rows = steps if keeps else 1
        kept = batch * (rows * computed + (rows + keeps) * entering) + first
        outputs = inputs.new_empty(steps, batch, weight_interface.shape[1] + reads)
        return outputs, torch.empty_like(state, memory_format=torch.contiguous_format), inputs.new_empty(kept)

    @torch.library.register_fake(name)  # type: ignore[untyped-decorator]
    def _(*arguments: Any) -> Any:
        return fake_forward(*arguments, True)

    @torch.library.register_fake(f"ntm_rl::{kind}_backward")  # type: ignore[untyped-decorator]
    def _(d_outputs: Any, d_last: Any, needs: list[bool], *others: Any) -> tuple[Tensor, ...]:
        inputs, state, _, _, *weights = others[:7]
        given = (inputs, state, state)
        return (
            *(each.new_empty(each.shape if needed else 0) for each, needed in zip(given, needs, strict=True)),
            *_weight_gradients(*weights),
        )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.sizes, ctx.clip = inputs
        ctx.save_for_backward(*tensors, output[0], output[2])

    def backward(ctx: Any, d_outputs: Tensor | None, d_last: Tensor | None, _: Any) -> tuple[Any, ...]:
        needs = list(ctx.needs_input_grad[:3])
        found = sequence_gradients(kind, needs, ctx.saved_tensors, ctx.sizes, ctx.clip, d_outputs, d_last)
        return (*found, None, None)

    torch.library.register_autograd(name, backward, setup_context=keep)


def _weight_gradients(weight_input: Tensor, weight_feedback: Tensor, weight_interface: Tensor) -> tuple[Tensor, ...]:
    """Returns empty gradients of a sequence's weights and biases, in the order of its arguments."""
    gates, interface = weight_input.shape[:1], weight_interface.shape[:1]
    shapes = (weight_input.shape, gates, weight_feedback.shape, weight_interface.shape, interface)
    return tuple(weight_input.new_empty(shape) for shape in shapes)


def _register_recurrent() -> None:
    """Defines `recurrent_sequence`, `recurrent_forward` with a gradient, and registers the shapes of all results."""
    name = "ntm_rl::recurrent_sequence"
    torch.library.define(name, RECURRENT)

    @torch.library.impl(name, "cpu")
    def _(*tensors: Tensor | None) -> Any:
        return torch.ops.ntm_rl.recurrent_forward.default(*tensors)

    @torch.library.register_fake("ntm_rl::recurrent_forward")  # type: ignore[untyped-decorator]
    def fake_forward(inputs: Tensor, hidden: Tensor, cell: Tensor | None, *_: Any) -> tuple[Tensor, ...]:
        steps, batch, units = *inputs.shape[:2], hidden.shape[1]
        cells: tuple[Any, ...] = (0, 0) if cell is None else ((batch, units), (steps + 1, batch, units))
        shapes = ((steps, batch, units), cells[0], (steps * batch, 4 * units), (steps, batch, units), cells[1])
        return tuple(inputs.new_empty(shape) for shape in shapes)

    torch.library.register_fake(name, fake_forward)

    @torch.library.register_fake("ntm_rl::recurrent_step")  # type: ignore[untyped-decorator]
    def _(inputs: Tensor, state: Tensor, resets: Any, weights: list[Tensor], *_: Any) -> tuple[Tensor, Tensor]:
        outputs = inputs.new_empty(*inputs.shape[:2], weights[1].shape[1])
        return outputs, torch.empty_like(state, memory_format=torch.contiguous_format)

    @torch.library.register_fake("ntm_rl::recurrent_backward")  # type: ignore[untyped-decorator]
    def _(d_outputs: Any, d_last_cell: Any, needs_inputs: bool, has_cell: bool, *others: Any) -> tuple[Tensor, ...]:
        inputs, _, weight_input, weight_hidden, *_ = others
        batch, (rows, units) = inputs.shape[1], weight_hidden.shape
        given = (inputs.shape if needs_inputs else 0, (batch, units), (batch if has_cell else 0, units))
        shapes = (*given, weight_input.shape, weight_hidden.shape, (rows,), (rows,))
        return tuple(inputs.new_empty(shape) for shape in shapes)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output[2:])

    def backward(ctx: Any, d_outputs: Tensor | None, d_last_cell: Tensor | None, *_: Any) -> tuple[Any, ...]:
        return recurrent_gradients(ctx.needs_input_grad[0], ctx.saved_tensors, d_outputs, d_last_cell)

    torch.library.register_autograd(name, backward, setup_context=keep)
