"""Writes agents and networks as files of one step."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from ntm_rl.agents.export.programs import check_onnx, check_program, require, to_onnx, to_program, to_pt2
from ntm_rl.agents.export.readme import metadata_of, readme
from ntm_rl.agents.export.steps import AgentStep, NetworkStep, StepModule
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.storage.files import WriteError, write_atomically
from ntm_rl.errors import InputError

SUFFIXES = (".onnx", ".pt2")


def export_agent(
    agent: LoadedAgent | SequenceNetwork,
    path: Path | str,
    *,
    channels_last: bool = False,
    action_masks: bool = False,
    **facts: str,
) -> StepModule:
    """Writes one step of an agent as an ONNX file or a `torch.export` file, and a README beside it.

    The step takes the environment's observations, the memory state `[B, S]` and resets `[B]`, for any batch size B. It
    returns the actions as the environment takes them, the parameters of their distribution, the values and the new
    states. A state of zeros is the initial one. The README and the file's metadata describe all of them.

    Args:
        agent: From `load_agent` or `load_run_agent`, or a supervised run's network.
        path: A file ending in `.onnx` or `.pt2`, which must not exist. The README is `<path>.md`.
        channels_last: Take images as `[H, W, C]` instead of `[C, H, W]`.
        action_masks: Take masks of the allowed actions.
        **facts: Further entries of the metadata, such as the environment's id.

    Returns:
        The step, a `torch.nn.Module`.

    Raises:
        InputError: a file that exists, another suffix, a missing package, options that do not fit the spaces, or
            a core that cannot be exported.
        WriteError: a file cannot be written.
    """
    path = Path(path)
    text = path.with_name(f"{path.name}.md")
    _check_path(path, text)
    if channels_last and not isinstance(agent, LoadedAgent):
        raise InputError("channels_last = True: a supervised network reads no images; leave it out")
    step = AgentStep(agent, channels_last, action_masks) if isinstance(agent, LoadedAgent) else NetworkStep(agent)
    metadata = metadata_of(step, path.name, facts)
    content = _content(step, path.suffix, metadata)
    _write(path, content, text, readme(step, path.name, metadata).encode())
    return step


def _write(path: Path, content: bytes, text: Path, description: bytes) -> None:
    """Writes both files or neither."""
    try:
        write_atomically(text, description)
        write_atomically(path, content)
    except BaseException as error:
        with suppress(OSError):
            text.unlink(missing_ok=True)
        if isinstance(error.__cause__, OSError):
            raise _write_error(path, error.__cause__) from error
        raise


def _write_error(path: Path, error: OSError) -> WriteError:
    return WriteError(f"{path}: cannot be written: {error.strerror or error}")


def _content(step: StepModule, suffix: str, metadata: Mapping[str, str]) -> bytes:
    if suffix == ".onnx":
        require("onnx", "onnxscript", "onnxruntime")
    program = to_program(step)
    if suffix == ".onnx":
        content = to_onnx(step, program, metadata)
        check_onnx(step, content)
        return content
    check_program(step, program)
    return to_pt2(program, metadata)


def _check_path(path: Path, text: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: must end in .onnx (ONNX Runtime) or .pt2 (torch.export.load)")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such folder: {path.parent}")
    for each in (path, text):
        if each.exists() or each.is_symlink():
            raise InputError(f"{each}: exists already; choose another name or delete it")
    try:
        TemporaryFile(dir=path.parent).close()  # before the export, which takes seconds
    except OSError as error:
        raise _write_error(path, error) from error
