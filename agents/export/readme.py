"""The metadata of an exported file and the README beside it."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from ntm_rl.agents.export.ports import NEXT_STATE, RESET, STATE, Port
from ntm_rl.agents.export.steps import AgentStep, StepModule

STATE_CONVENTION = (
    "The memory is the array `state` [batch, {size}]. Pass zeros at the first step, then `next_state` of the last "
    "step. Set `reset` to true for each row in which an episode begins, which clears its memory."
)
ONNX_USAGE = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession({file!r})
batch = 1
state = np.zeros((batch, {size}), np.float32)
reset = np.ones(batch, bool)
inputs = {{
{inputs}
}}
{outputs}, state = session.run(None, {{**inputs, "state": state, "reset": reset}})
reset = np.zeros(batch, bool)  # until an episode ends
"""
PT2_USAGE = """\
import torch

step = torch.export.load({file!r}).module()
batch = 1
state = torch.zeros(batch, {size})
reset = torch.ones(batch, dtype=torch.bool)
inputs = [
{inputs}
]
{outputs}, state = step(*inputs, state, reset)
reset = torch.zeros(batch, dtype=torch.bool)  # until an episode ends
"""


def metadata_of(step: StepModule, file: str, facts: Mapping[str, str]) -> dict[str, str]:
    """Returns the entries of a file's metadata.

    Args:
        step: The step.
        file: Name of the file.
        facts: Further entries.
    """
    return {
        "inputs": json.dumps([port.row() for port in step.inputs]),
        "outputs": json.dumps([port.row() for port in step.outputs]),
        "initial_state": STATE_CONVENTION.format(size=step.state_size),
        "preprocessing": _preprocessing(step),
        "usage": usage(step, file),
        "core": step.core,
        "versions": json.dumps({name: version(name) for name in ("ntm-rl", "torch")}),
        **facts,
    }


def readme(step: StepModule, file: str, metadata: Mapping[str, str]) -> str:
    """Returns the README of a file in Markdown."""
    facts = {key: value for key, value in metadata.items() if key not in _SECTIONS}
    return "\n\n".join(
        [
            f"# {file}",
            "One step of an agent with memory, exported by ntm-rl. The batch size is free.",
            "## Inputs",
            _table(step.inputs),
            metadata["initial_state"],
            "## Outputs",
            _table(step.outputs),
            metadata["preprocessing"],
            "## Usage",
            f"```python\n{metadata['usage']}```",
            "## Source",
            "\n".join(f"- {key}: {value}" for key, value in facts.items()),
            "",
        ]
    )


def usage(step: StepModule, file: str) -> str:
    """Returns an example in Python that runs the file once."""
    observed = [port for port in step.inputs if port.name not in (STATE, RESET)]
    outputs = ", ".join(port.name for port in step.outputs if port.name != NEXT_STATE)
    is_onnx = file.endswith(".onnx")
    rows = "\n".join(_onnx_row(port) if is_onnx else _pt2_row(port) for port in observed)
    template = ONNX_USAGE if is_onnx else PT2_USAGE
    return template.format(file=file, size=step.state_size, inputs=rows, outputs=outputs)


_SECTIONS = ("inputs", "outputs", "initial_state", "preprocessing", "usage")


def _preprocessing(step: StepModule) -> str:
    if not isinstance(step, AgentStep):
        return "The inputs are those of the task."
    return (
        "The graph contains the normalisation of observations by the statistics of the training, the one-hot encoding "
        "of integers, the scaling of images, and the clipping and unscaling of actions."
    )


def _table(ports: Sequence[Port]) -> str:
    rows = [f"| `{_cell(port.name)}` | {_shape(port)} | {port.dtype} | {_cell(port.text)} |" for port in ports]
    return "\n".join(["| name | shape | type | content |", "|---|---|---|---|", *rows])


def _shape(port: Port) -> str:
    return f"[{', '.join(['batch', *map(str, port.shape)])}]"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _sizes(port: Port) -> str:
    return f"({', '.join(['batch', *map(str, port.shape)])}{'' if port.shape else ','})"


def _onnx_row(port: Port) -> str:
    return f"    {port.name!r}: np.{port.fill}({_sizes(port)}, {port.dtype!r}),"


def _pt2_row(port: Port) -> str:
    return f"    torch.{port.fill}({_sizes(port)}, dtype=torch.{port.dtype}),  # {_cell(port.name)}"
