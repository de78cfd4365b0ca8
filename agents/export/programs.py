"""Traces a step into a graph, as a `torch.export` program or an ONNX model, and compares it with the original."""

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ntm_rl.agents.export.ports import NEXT_STATE, RESET, STATE
from ntm_rl.agents.export.steps import StepModule
from ntm_rl.errors import InputError

Arrays = Sequence[NDArray[Any]]
Runner = Callable[[Arrays], Arrays]

BATCHES = (1, 3)  # of the comparison
STEPS = 3
TOLERANCE = 1e-3  # relative and absolute, of the comparison, which finds wrong graphs and not rounding


def to_program(step: StepModule) -> torch.export.ExportedProgram:
    """Returns a step as a graph for any batch size.

    Raises:
        InputError: a part of the step cannot be exported, such as a user's core that reads values of tensors.
    """
    batch = torch.export.Dim("batch")
    example = tuple(map(torch.from_numpy, _example(step, 2, np.random.default_rng(0))))
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(
                step, example, dynamic_shapes={"inputs": tuple({0: batch} for _ in example)}, strict=False
            )
        except Exception as error:  # a user's core may raise anything
            raise InputError(
                f"core = {step.core!r}: torch.export cannot export this agent: {_reason(error)}"
            ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has paths of this machine
    return program


def to_pt2(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """Returns the file of a program, with metadata as `extra_files["metadata.json"]`."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})
    return file.getvalue()


def to_onnx(step: StepModule, program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """Returns the ONNX file of a program.

    Raises:
        InputError: an operator has no counterpart in ONNX.
    """
    with _quiet():
        try:
            found = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=[port.name for port in step.inputs],
                output_names=[port.name for port in step.outputs],
                custom_translation_table={torch.ops.aten.sort.stable: _sort_stable},
            )
        except Exception as error:  # the exporter raises many types
            raise InputError(f"core = {step.core!r}: ONNX cannot express this agent: {_reason(error)}") from error
        assert found is not None
        proto = found.model_proto
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        del node.metadata_props[:]  # has paths of this machine
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    content: bytes = proto.SerializeToString()
    return content


def check_program(step: StepModule, program: torch.export.ExportedProgram) -> None:
    """Compares a program with its step; raises as `check_onnx`."""
    run = program.module()

    def run_arrays(inputs: Arrays) -> Arrays:
        with _quiet(), torch.no_grad():
            return [each.numpy() for each in run(*map(torch.from_numpy, inputs))]

    _check(step, run_arrays)


def check_onnx(step: StepModule, content: bytes) -> None:
    """Compares an ONNX file with its step.

    Raises:
        InputError: they differ, as a user's core whose step depends on values of the example.
    """
    _check(step, onnx_runner(step, content))


def onnx_runner(step: StepModule, content: bytes, threads: int = 0) -> Runner:
    """Returns a function that runs an ONNX file on arrays."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in step.inputs]

    def run(inputs: Arrays) -> Arrays:
        outputs: Arrays = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    return run


def require(*modules: str) -> Any:
    """Imports modules of the extra `onnx` and returns the last.

    Raises:
        InputError: one is missing.
    """
    try:
        return [import_module(name) for name in modules][-1]
    except ImportError as error:
        raise InputError(
            f'a file ending in .onnx needs onnx, onnxscript and onnxruntime ({error}); run: pip install "ntm-rl[onnx]"'
        ) from error


def random_inputs(step: StepModule, batch: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Returns random observations, states of zeros and random resets, by name."""
    inputs = {port.name: port.sample(batch, rng) for port in step.inputs}
    return {**inputs, RESET: rng.random(batch) < 0.5}


def _example(step: StepModule, batch: int, rng: np.random.Generator) -> Arrays:
    return list(random_inputs(step, batch, rng).values())


def _check(step: StepModule, run: Runner) -> None:
    for batch in BATCHES:
        rng, state = np.random.default_rng(batch), None
        for _ in range(STEPS):
            inputs = random_inputs(step, batch, rng)
            if state is not None:
                inputs[STATE] = state
            values = list(inputs.values())
            with torch.no_grad():
                expected = [each.numpy() for each in step(*map(torch.from_numpy, values))]
            for port, found, right in zip(step.outputs, run(values), expected, strict=True):
                # One step may choose another of two equally likely actions, or of two equal slots.
                if port.dtype == "float32" and port.name != NEXT_STATE and not _is_close(found, right):
                    raise InputError(
                        f"core = {step.core!r}: the exported {port.name} differs from the original's by "
                        f"{np.abs(found - right).max():.2g}; its step may depend on values of tensors, use torch.where"
                    )
            state = expected[-1]


def _is_close(found: NDArray[Any], right: NDArray[Any]) -> bool:
    return bool(np.allclose(found, right, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))


def _sort_stable(values: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
    """`torch.sort(stable=True)` in ONNX, whose TopK is stable."""
    opset18: Any = require("onnxscript").opset18
    size = opset18.Gather(opset18.Shape(values), opset18.Constant(value_ints=[dim]))
    return opset18.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


def _reason(error: BaseException) -> str:
    """Returns the first line of the innermost cause, without terminal colours, or what to do."""
    while error.__cause__ is not None:
        error = error.__cause__
    if "Constraints violated" in str(error):
        return "its step fixes the batch size; use tensor.shape[0] in place of len(tensor)"
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporters' warnings, log and prints, which concern their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
