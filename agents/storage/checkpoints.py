"""Checkpoints of a training: weights, optimizer, counters, statistics and random states in one checked file."""

import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ntm_rl.agents.storage.files import StorageError, make_folder
from ntm_rl.agents.storage.random_states import check_random_states, random_states
from ntm_rl.agents.storage.tensors import read_tensors, require_format, require_matching, weights_of, write_tensors
from ntm_rl.errors import InputError

PPO_CHECKPOINT, SUPERVISED_CHECKPOINT = "checkpoint", "supervised checkpoint"  # values of `kind`
FORMATS = {PPO_CHECKPOINT: 3, SUPERVISED_CHECKPOINT: 2}
PARTS = (
    "policy",
    "average",
    "optimizer",
    "random",
    "normalizer",
    "environment",
    "credit",
)  # first part of a tensor's name
MACHINE_OPTIONS = ("fused", "foreach", "capturable")  # of an optimizer: they depend on the machine


def write_checkpoint(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    document: Mapping[str, Any],
    tensors: Mapping[str, Tensor] = MappingProxyType({}),
    *,
    keep: int = 3,
) -> Path:
    """Writes weights, optimizer, random states and a document as `step-<step>.safetensors`.

    Args:
        folder: Folder of the checkpoints; made if missing.
        step: The training's step count.
        module: Module whose weights are saved.
        optimizer: Optimizer whose state is saved.
        document: Further JSON values, among them the `kind` of the checkpoint.
        tensors: Further tensors, under names that begin with one of `PARTS`.
        keep: Checkpoints to keep, at least 1.

    Raises:
        InputError: `keep` below 1.
        StorageError: it could not be written; older checkpoints are untouched.
    """
    if keep < 1:
        raise InputError(f"keep = {keep}: must be at least 1")
    make_folder(folder)
    state = optimizer.state_dict()
    parts = {f"policy.{name}": tensor for name, tensor in weights_of(module).items()}
    for index, values in state["state"].items():
        parts |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    generators, other_generators = random_states(next(module.parameters()).device)
    parts |= {f"random.{name}": generator for name, generator in generators.items()}
    values = {
        "format": FORMATS[document["kind"]],
        "param_groups": [
            {key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]
        ],
        "random": other_generators,
        **document,
    }
    path = folder / f"step-{step:012d}.safetensors"
    _delete(folder.glob(".step-*.tmp"))  # left by killed processes; they may fill the disk
    write_tensors(path, {**parts, **tensors}, values)
    _delete_old(folder, path, keep)
    return path


def checkpoint_to_resume(checkpoints: Path, agent: Path) -> Path | None:
    """Returns the checkpoint from which a run resumes, or None for a run that was interrupted before its first.

    Raises:
        InputError: all checkpoints are damaged, or the run has none and restarting it would replace its agent.
    """
    if any(checkpoints.glob("step-*.safetensors")):
        return latest_checkpoint(checkpoints)
    if agent.exists():
        raise InputError(
            f"{checkpoints}: no checkpoint to resume from, and restarting the training would replace {agent}; put the "
            "checkpoints back, or start a new training with policy.init_from=RUN"
        )
    return None


def latest_checkpoint(folder: Path) -> Path:
    """Returns the newest checkpoint that passes its checks, with a warning for each damaged one.

    Raises:
        InputError: there is none.
    """
    path = newer_checkpoint(folder, -1)
    if path is None:
        raise InputError(f"{folder}: no usable checkpoint; a training writes one every checkpoint.every steps")
    return path


def newer_checkpoint(folder: Path, step: int) -> Path | None:
    """Returns the newest checkpoint after a step as `latest_checkpoint` does, None if there is none."""
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        number = path.stem.removeprefix("step-")
        if number.isdecimal() and int(number) <= step:
            return None
        try:
            read_tensors(path)
        except StorageError as error:
            warnings.warn(f"skipped a checkpoint: {error}", stacklevel=3)
        else:
            return path
    return None


def read_parts(path: Path, kind: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Reads the tensors of a checkpoint, by part, and its document.

    Raises:
        StorageError: missing, damaged, or of another kind.
    """
    tensors, document = read_tensors(path)
    require_format(path, document, kind, FORMATS[kind])
    return _by_part(path, tensors), document


def read_checkpoint(
    path: Path, kind: str, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any]]:
    """Reads and checks a checkpoint of a module and its optimizer, and changes neither.

    Returns:
        The tensors by part, the document, and the state for `optimizer.load_state_dict`.

    Raises:
        StorageError: missing, damaged, of another kind, or of other weights.
    """
    groups, document = read_parts(path, kind)
    require_matching(path, groups["policy"], weights_of(module))
    try:
        state = _optimizer_state(path, groups["optimizer"], document, optimizer)
        check_random_states(groups["random"], document["random"], next(module.parameters()).device)
    except StorageError:
        raise
    except Exception as error:  # the parsers raise all kinds of errors for hostile values
        raise StorageError(f"{path}: not a {kind} of format {FORMATS[kind]}: {error!r}") from error
    return groups, document, state


def _delete_old(folder: Path, newest: Path, keep: int) -> None:
    """Deletes all but the last `keep` checkpoints up to `newest`; later ones are kept."""
    _delete([path for path in sorted(folder.glob("step-*.safetensors")) if path.name <= newest.name][:-keep])


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # an old file that remains does no harm
            path.unlink()


def _by_part(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in groups:
            raise StorageError(f"{path}: tensor {name!r} is not part of a checkpoint")
        groups[part][rest] = tensor
    return groups


def as_count(value: Any) -> int:
    """Returns a value that must be a non-negative integer, else raises a ValueError."""
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a non-negative integer")
    return value


def _optimizer_state(
    path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        if not (index.isascii() and index.isdecimal()) or int(index) >= len(parameters):
            raise StorageError(f"{path}: optimizer state {name!r} belongs to no parameter of this agent")
        state.setdefault(int(index), {})[key] = tensor
    keys = next(iter(state.values())).keys() if state else ()
    # Parameters without a gradient have no state; the state of the others has the same names, shapes and types.
    expected = {
        f"optimizer.{number}.{key}": torch.zeros(()) if key == "step" else parameters[number]
        for number in state
        for key in keys
    }
    require_matching(path, {f"optimizer.{name}": tensor for name, tensor in tensors.items()}, expected)
    current = optimizer.state_dict()["param_groups"]
    saved = document.get("param_groups")
    if not isinstance(saved, list) or len(saved) != len(current) or not all(map(_is_compatible, saved, current)):
        raise StorageError(f"{path}: its optimizer has other parameter groups than this agent's")
    return {"state": state, "param_groups": current}  # the options of the settings, which a resume may change


def _is_compatible(saved: Any, current: Mapping[str, Any]) -> bool:
    """Whether a saved parameter group has only options of the current one, and numbers where that has numbers."""
    if not isinstance(saved, dict) or not saved.keys() <= current.keys() - {"params"}:
        return False
    return all(
        _structure(value) == _structure(current[key]) for key, value in saved.items() if key not in MACHINE_OPTIONS
    )


def _structure(option: Any) -> Any:
    """Returns an option with each number replaced by "number", and other values by their type."""
    if isinstance(option, (list, tuple)):
        return [_structure(part) for part in option]
    is_number = isinstance(option, (int, float)) and not isinstance(option, bool) and math.isfinite(option)
    return "number" if is_number else type(option)
