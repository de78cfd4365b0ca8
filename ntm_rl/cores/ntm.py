"""The Neural Turing Machine core: Graves, Wayne and Danihelka (2014), arXiv:1410.5401."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ntm_rl.addressing import ntm as addressing
from ntm_rl.checks import require_at_least, require_bool, require_one_of, require_positive
from ntm_rl.cores.access import MemoryAccess
from ntm_rl.cores.base import CoreStep, MemoryCore, named_heads
from ntm_rl.cores.compiling import CompiledStep, has_triton
from ntm_rl.cores.devices import can_be_compared, full_precision, is_same
from ntm_rl.cores.gates import chrono_initialize
from ntm_rl.cores.gru_step import GruWeights, four_blocks, gru_step, three_blocks
from ntm_rl.cores.layout import StateLayout
from ntm_rl.cores.lstm_memory import feedback_of, output_of, steps_with_resets, uniform_parameter
from ntm_rl.cores.lstm_step import lstm_step
from ntm_rl.cores.ntm_heads import CONTENT_SPREAD, TAPES, HeadParameters, Init, access_by, bias_heads, waves
from ntm_rl.cores.registry import register_core
from ntm_rl.errors import InputError
from ntm_rl.kernels.fused import is_fused, lay_out, run_fused
from ntm_rl.transforms import is_transformed, with_weights

Controller = Literal["lstm", "gru", "feedforward"]
MemoryInit = Literal["constant", "learned", "positional", "random"]
Backend = Literal["auto", "eager", "compile", "fused"]

GATES = {"lstm": 4, "gru": 3, "feedforward": 1}  # rows of hidden_size in the controller's weights
BLANK = 1e-6  # contents of a constant initial memory (Collier and Beel 2018, section 3.1)


class NtmState(NamedTuple):
    """Parts of an NTM's state; read heads come before write heads.

    Attributes:
        memory: `[B, N, M]`.
        weightings: `[B, K, N]`.
        reads: read vectors `[B, R, M]`.
        hidden: controller output `[B, H]`.
        cell: `[B, H]` of the LSTM controller, `[B, 0]` otherwise.
    """

    memory: Tensor
    weightings: Tensor
    reads: Tensor
    hidden: Tensor
    cell: Tensor


Step = Callable[[Tensor, NtmState], NtmState]


@register_core("ntm")
class Ntm(MemoryCore):
    """Neural Turing Machine: a controller with read and write heads on an `[N, M]` memory.

    In each step the controller reads the input and the last read vectors; one linear layer maps its output to the
    parameters of all heads; every head addresses the memory of the last step; the write heads write; the read heads
    read from the new memory. The output is the controller's hidden state followed by the read vectors `[H + R * M]`:
    any linear layer on it is the paper's output layer.
    """

    def __init__(
        self,
        input_size: int,
        *,
        slots: Annotated[int, "Memory slots N."] = 32,
        width: Annotated[int, "Width M of a slot."] = 16,
        read_heads: Annotated[int, "Read heads R."] = 1,
        write_heads: Annotated[int, "Write heads W."] = 1,
        controller: Annotated[Controller, "Type of the controller."] = "lstm",
        hidden_size: Annotated[int, "Units H of the controller."] = 128,
        horizon: Annotated[
            int, "Longest time constant in steps of the controller's cells at initialisation (chrono); 0: PyTorch's."
        ] = 0,
        shift_range: Annotated[int, "Largest circular shift k of a head in one step; heads shift by -k to k."] = 1,
        memory_init: Annotated[
            MemoryInit,
            "Contents of the initial memory: 1e-6 everywhere (constant), a parameter that is initialised at random "
            "(learned) or as waves over the slots, so that neighbours are similar (positional), or random constants.",
        ] = "constant",
        learned_start: Annotated[bool, "Learn the initial weightings and read vectors."] = False,
        init: Annotated[
            Init,
            "Initialisation of the heads: plain, content (sharp content addressing of a memory with distinct slots), "
            "tape (each head moves by one slot per step, and the initial read weighting is learned), or mixed (write "
            "heads and two read heads as with tape, forward and backward, and read heads by content).",
        ] = "plain",
        tape_logit: Annotated[
            float, "With init = tape or mixed: the logit of location addressing and of the shift by one slot."
        ] = 4.0,
        start_scale: Annotated[
            float,
            "Factor on the learning rate of learned initial weightings: over N slots they are sharp at logits of about "
            "log N.",
        ] = 10.0,
        clip: Annotated[float, "Range to which head parameters are clipped."] = 20.0,
        backend: Annotated[
            Backend, "Implementation: eager, compile (torch.compile of a step), fused (C++, on a CPU), or auto."
        ] = "auto",
    ):
        super().__init__()
        require_at_least(
            1,
            input_size=input_size,
            width=width,
            read_heads=read_heads,
            write_heads=write_heads,
            hidden_size=hidden_size,
        )
        require_positive(tape_logit=tape_logit, start_scale=start_scale, clip=clip)
        if init in TAPES:
            require_at_least(1, f" (with init = {init!r})", shift_range=shift_range)
        require_at_least(0, shift_range=shift_range)
        require_at_least(2 * shift_range + 1, " (2 * shift_range + 1)", slots=slots)
        require_one_of(get_args(Controller), controller=controller)
        require_one_of(get_args(MemoryInit), memory_init=memory_init)
        require_one_of(get_args(Init), init=init)
        require_one_of(get_args(Backend), backend=backend)
        if init == "content" and memory_init == "constant":
            raise InputError("memory_init = 'constant': must be learned, positional or random with init = 'content'")
        require_bool(learned_start=learned_start)
        self.input_size, self.hidden_size, self.slots, self.width = input_size, hidden_size, slots, width
        self.read_heads, self.write_heads, self.heads = read_heads, write_heads, read_heads + write_heads
        self.controller, self.shifts, self.clip, self.backend = controller, 2 * shift_range + 1, clip, backend
        self.start_scale = start_scale

        cell_size = hidden_size if controller == "lstm" else 0
        self.layout = StateLayout(
            NtmState,
            memory=(slots, width),
            weightings=(self.heads, slots),
            reads=(read_heads, width),
            hidden=(hidden_size,),
            cell=(cell_size,),
        )
        self.output_size = hidden_size + read_heads * width
        controller_code = tuple(GATES).index(controller)
        self.kernel_sizes = (slots, width, read_heads, write_heads, self.shifts, hidden_size, controller_code)
        # Size of each group in HeadParameters.
        self._head_sizes = (
            *(self.heads * size for size in (width, 1, 1, self.shifts, 1)),
            *(write_heads * width for _ in ("erases", "adds")),
        )
        self._build_controller()
        if horizon:
            require_at_least(2, " or 0", horizon=horizon)
            chrono_initialize(self.bias, horizon, controller)
        self.head_layer = nn.Linear(hidden_size, sum(self._head_sizes))
        self._build_start(memory_init, learned_start, init)
        self._kept_start: tuple[list[Tensor], Tensor] | None = None
        self._compiled_steps: dict[str, Step] = {}
        bias_heads(
            init,
            HeadParameters(*self.head_layer.weight.split(self._head_sizes)),
            HeadParameters(*self.head_layer.bias.split(self._head_sizes)),
            read_heads,
            tape_logit,
        )

    def unpack(self, state: Tensor) -> NtmState:
        """Returns the parts of a flat state `[B, S]`; of a state before its first step, the initial ones."""
        parts: NtmState = self.layout.unpack(torch.where(state[:, :1] == 0, self.start(), state))
        return parts

    def _weight(self) -> Tensor:
        return self.bias

    def _run(self, inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
        if is_fused(self.backend, inputs.device):
            tensors = (inputs, state, self.start(), resets, *self._weights())
            return run_fused("ntm", tensors, self.kernel_sizes, self.clip, self._plain)
        return self._unroll(F.linear(inputs, *self._input_weights()), state, resets, self.start())

    def make_step(self) -> CoreStep:
        """See `MemoryCore.make_step`."""
        if not self._can_prepare():
            return self._run
        device, start, run = self.bias.device, self.start(), torch.ops.ntm_rl.ntm_forward.default
        with full_precision(device):
            weights = self._weights()
        laid_out = lay_out([each for each in weights if each.dim() == 2])
        fixed = (*weights, self.kernel_sizes, self.clip, False, laid_out)

        def step(inputs: Tensor, state: Tensor, resets: Tensor | None) -> tuple[Tensor, Tensor]:
            with full_precision(device):
                outputs, after, _ = run(inputs, state, start, resets, *fixed)
                return outputs, after

        return step

    def _can_prepare(self) -> bool:
        """Whether `make_step` lays out the weights for the kernel."""
        return is_fused(self.backend, self.bias.device) and self.bias.dtype == torch.float32

    def _input_weights(self) -> tuple[Tensor, Tensor]:
        """Returns the weight `[G, I]` and the bias `[G]` of the controller's inputs."""
        return self.weight_input, self.bias

    def weightings(self, state: Tensor) -> Mapping[str, Tensor]:
        """See `MemoryCore.weightings`."""
        read, write = self.unpack(state).weightings.split([self.read_heads, self.write_heads], dim=1)
        return {**named_heads("read", read), **named_heads("write", write)}

    def memory(self, state: Tensor) -> Tensor:
        """See `MemoryCore.memory`."""
        return self.unpack(state).memory

    def access(self, before: Tensor, after: Tensor) -> MemoryAccess:
        """See `MemoryCore.access`."""
        return access_by(self.head_parameters(self.unpack(after).hidden), self.weightings(after))

    def _weights(self) -> tuple[Tensor, ...]:
        return *self._gate_weights(), self.head_layer.weight, self.head_layer.bias

    def _plain(
        self, inputs: Tensor, state: Tensor, start: Tensor, resets: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The kernel's sequence as plain operators, with the given weights."""
        *gates, head_weight, head_bias = weights
        named = {**self._named(*gates), "head_layer.weight": head_weight, "head_layer.bias": head_bias}
        projected = F.linear(inputs, named.pop("weight_input"), named["bias"])
        found: tuple[Tensor, Tensor] = with_weights(self._unroll, self, named, (projected, state, resets, start))
        return found

    def _gate_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the kernel's weights of inputs `[G, I]`, bias `[G]` and weights of the feedback `[G, F]`."""
        weight_input, bias = self._input_weights()
        if self.controller != "gru":
            return weight_input, bias, self.weight_feedback
        return four_blocks(GruWeights(weight_input, bias, self.weight_read, self.weight_hidden, self.bias_candidate))

    def _named(self, inputs: Tensor, bias: Tensor, feedback: Tensor) -> dict[str, Tensor]:
        """The inverse of `_gate_weights`: the controller's parameters by name."""
        if self.controller != "gru":
            return {"weight_input": inputs, "bias": bias, "weight_feedback": feedback}
        return three_blocks(inputs, bias, feedback)._asdict()

    def _unroll(self, projected: Tensor, state: Tensor, resets: Tensor | None, start: Tensor) -> tuple[Tensor, Tensor]:
        """Runs a sequence step by step.

        Args:
            projected: Share of the inputs in the controller's gates, `[T, B, G]`, one product for all steps.
            state: As of `forward`.
            resets: As of `forward`.
            start: The initial state, `[1, S]`.

        Returns:
            Hidden states and read vectors `[T, B, H + R * M]`, and the last state `[B, S]`.
        """
        fresh = state[:, :1] == 0
        if resets is not None:
            fresh = fresh | resets[0].unsqueeze(1)
        parts = self.layout.unpack(torch.where(fresh, start, state))
        start_parts = self.layout.unpack(start)
        run_step = self._step_for(projected.device)
        has_reset, outputs = steps_with_resets(resets, len(projected)), []
        for step, from_input in enumerate(projected):
            if resets is not None and step > 0 and has_reset[step]:
                parts = _where(resets[step], start_parts, parts)
            parts = run_step(from_input, parts)
            outputs.append(output_of(parts.hidden, parts.reads))
        return torch.stack(outputs), self.layout.pack(parts)

    def _step_for(self, device: torch.device) -> Step:
        """Returns the eager step, or the compiled one, which is compiled once per device type."""
        is_best = self.backend == "auto" and device.type == "cuda" and has_triton()
        if (self.backend != "compile" and not is_best) or torch.compiler.is_compiling() or is_transformed():
            return self._step
        if device.type not in self._compiled_steps:
            self._compiled_steps[device.type] = CompiledStep(self._step, device, self.backend == "compile")
        return self._compiled_steps[device.type]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled_steps": {}}  # they refer to this core; a copy compiles its own

    def _step(self, from_input: Tensor, last: NtmState) -> NtmState:
        hidden, cell = self._control(from_input, last)
        heads = self.head_parameters(hidden)
        content = addressing.content_weighting(last.memory, heads.keys, heads.strengths)
        gated = addressing.interpolate(content, last.weightings, heads.gates)
        weightings = addressing.sharpen(addressing.shift(gated, heads.shifts), heads.exponents)
        memory = addressing.write(last.memory, weightings[:, self.read_heads :], heads.erases, heads.adds)
        reads = addressing.read(memory, weightings[:, : self.read_heads])
        return NtmState(memory, weightings, reads, hidden, cell)

    def _control(self, from_input: Tensor, last: NtmState) -> tuple[Tensor, Tensor]:
        if self.controller == "lstm":
            feedback = feedback_of(last.reads, last.hidden)
            step = lstm_step(torch.addmm(from_input, feedback, self.weight_feedback.t()), last.cell)
            return step.hidden, step.cell
        reads = last.reads.flatten(1)
        if self.controller == "feedforward":
            return torch.tanh(torch.addmm(from_input, reads, self.weight_feedback.t())), last.cell
        return gru_step(
            from_input, reads, last.hidden, self.weight_read, self.weight_hidden, self.bias_candidate
        ), last.cell

    def head_parameters(self, hidden: Tensor) -> HeadParameters:
        """Returns the head parameters from a controller output `[B, H]`."""
        raw = self.head_layer(hidden).clamp(-self.clip, self.clip).split(self._head_sizes, dim=1)
        keys, strengths, gates, shifts, exponents, erases, adds = raw
        return HeadParameters(
            keys=keys.unflatten(1, (self.heads, self.width)),
            strengths=F.softplus(strengths),
            gates=torch.sigmoid(gates),
            shifts=torch.softmax(shifts.unflatten(1, (self.heads, self.shifts)), dim=-1),
            exponents=1 + F.softplus(exponents),
            erases=torch.sigmoid(erases).unflatten(1, (self.write_heads, self.width)),
            adds=adds.unflatten(1, (self.write_heads, self.width)),
        )

    def start(self) -> Tensor:
        """Returns the state in which an episode begins, `[1, S]`, differentiable where it is learned."""
        parts = [self.start_memory, self.start_reads, self.start_read_logits, self.start_write_logits]
        given = [part for part in parts if part is not None]
        learned = any(part.requires_grad for part in given)
        if (learned and torch.is_grad_enabled()) or not all(map(can_be_compared, given)):
            return self._make_start()
        # Cached for single steps; not as a buffer, which `to_empty` would leave uninitialised.
        if self._kept_start is None or not all(map(is_same, self._kept_start[0], given)):
            with torch.inference_mode(False), torch.no_grad():  # an inference tensor cannot be used in training
                self._kept_start = [part.clone() for part in given], self._make_start()
        return self._kept_start[1]

    def _make_start(self) -> Tensor:
        read_weightings = self._initial_weightings(self.start_read_logits, self.read_heads)
        write_weightings = self._initial_weightings(self.start_write_logits, self.write_heads)
        weightings = torch.cat([read_weightings, write_weightings]).unsqueeze(0)
        memory = self.start_memory
        if memory is None:
            memory = self.bias.new_full((self.slots, self.width), BLANK)
        controller = weightings.new_zeros(1, sum(self.layout.sizes[-2:]))  # hidden and cell state
        return self.layout.pack([memory.unsqueeze(0), weightings, self.start_reads.unsqueeze(0), controller])

    def _initial_weightings(self, logits: Tensor | None, heads: int) -> Tensor:
        if logits is not None:
            return torch.softmax(self.start_scale * logits, dim=-1)
        # Not uniform, as a uniform weighting over identical slots stays uniform.
        return torch.cat([self.bias.new_ones(heads, 1), self.bias.new_zeros(heads, self.slots - 1)], dim=1)

    def _build_controller(self) -> None:
        """Makes the controller's parameters; gates in PyTorch's order (i, f, g, o; r, z, n)."""
        rows = GATES[self.controller] * self.hidden_size
        uniform = partial(uniform_parameter, self.hidden_size)
        reads = self.read_heads * self.width
        self.weight_input = uniform(rows, self.input_size)
        self.bias = uniform(rows)
        if self.controller == "gru":  # the reset gate applies to the hidden state's share in the candidate
            self.weight_read = uniform(rows, reads)
            self.weight_hidden = uniform(rows, self.hidden_size)
            self.bias_candidate = uniform(self.hidden_size)
        else:  # of an LSTM also the hidden state, see `feedback_of`
            self.weight_feedback = uniform(rows, reads + (self.hidden_size if self.controller == "lstm" else 0))

    def _build_start(self, memory_init: MemoryInit, learned_start: bool, init: Init) -> None:
        self.start_memory: Tensor | None
        self.start_reads: Tensor
        spread = CONTENT_SPREAD if init == "content" else 1.0
        if memory_init == "learned":
            self.start_memory = nn.Parameter(0.05 * spread * torch.randn(self.slots, self.width))
        elif memory_init == "positional":
            self.start_memory = nn.Parameter(0.05 * spread * waves(self.slots, self.width))
        else:
            bound = spread / math.sqrt(self.slots + self.width)
            random = torch.empty(self.slots, self.width).uniform_(-bound, bound)
            # Constant contents are not saved, so that loading random contents does not replace them.
            self.register_buffer("start_memory", random if memory_init == "random" else None)
        reads = torch.zeros(self.read_heads, self.width)
        if learned_start:
            self.start_reads = nn.Parameter(reads)
        else:
            self.register_buffer("start_reads", reads)

        def logits(heads: int, spread: float) -> nn.Parameter:
            return nn.Parameter(spread / self.start_scale * torch.randn(heads, self.slots))

        tape = init in TAPES
        learn_read = learned_start or tape
        self.start_read_logits = logits(self.read_heads, 0.1 if tape else 1.0) if learn_read else None
        self.start_write_logits = logits(self.write_heads, 1.0) if learned_start and not tape else None


def _where(condition: Tensor, chosen: NtmState, otherwise: NtmState) -> NtmState:
    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(condition.view(-1, *[1] * (old.dim() - 1)), new, old)

    return NtmState(*map(choose, chosen, otherwise))
