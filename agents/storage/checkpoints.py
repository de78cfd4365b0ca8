"""Checkpoints of a training: weights, optimizer, counters, statistics and random generators in one checked file."""

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
from ntm_rl.agents.storage.tensors import read_tensors, require_matching, weights_of, write_tensors
from ntm_rl.errors import InputError

FORMAT = 1
PARTS = ("policy", "average", "optimizer", "random", "normalizer", "environment")  # what the tensors' names begin with
HOW = ("fused", "foreach", "capturable")  # an optimizer computes: a matter of the machine, not of the training


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
    """Writes weights, optimizer, random generators and a document as `step-<step>.safetensors`.

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
    generators, other_generators = random_states()
    parts |= {f"random.{name}": generator for name, generator in generators.items()}
    whole = {
        "format": FORMAT,
        "param_groups": [
            {key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]
        ],
        "random": other_generators,
        **document,
    }
    path = folder / f"step-{step:012d}.safetensors"
    _delete(folder.glob(".step-*.tmp"))  # what killed processes left, which may be what fills the disk
    write_tensors(path, {**parts, **tensors}, whole)
    _tidy(folder, path, keep)
    return path


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds checkpoints, usable or not."""
    return any(folder.glob("step-*.safetensors"))


def can_go_on(checkpoints: Path, agent: Path) -> bool:
    """Whether a run has a checkpoint to go on from; one without any begins anew, if that replaces no finished agent.

    Raises:
        InputError: it would.
    """
    if has_checkpoints(checkpoints):
        return True
    if agent.exists():
        raise InputError(
            f"{checkpoints}: no checkpoint to go on from, and a new training would replace {agent}; put the "
            "checkpoints back, or train anew with policy.init_from=RUN"
        )
    return False


def latest_checkpoint(folder: Path) -> Path:
    """Returns the newest checkpoint that passes its checks; damaged ones are named in a warning.

    Raises:
        InputError: there is none.
    """
    path = newer_checkpoint(folder, -1)
    if path is None:
        raise InputError(f"{folder}: no usable checkpoint; a training writes one every checkpoint.every steps")
    return path


def newer_checkpoint(folder: Path, step: int) -> Path | None:
    """Returns the newest checkpoint after a step that passes its checks, None if there is none; warns as above."""
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
    if document.get("kind") != kind or document.get("format") != FORMAT:
        raise StorageError(f"{path}: not a {kind} of format {FORMAT}")
    return _by_part(path, tensors), document


def read_checkpoint(
    path: Path, kind: str, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any], dict[str, Any]]:
    """Reads and checks what `write_checkpoint` wrote for such a module and optimizer, and changes nothing.

    Returns:
        The tensors by part, the document, and the state for `optimizer.load_state_dict`.

    Raises:
        StorageError: missing, damaged, of another kind, or of other weights.
    """
    groups, document = read_parts(path, kind)
    require_matching(path, groups["policy"], weights_of(module))
    try:
        state = _optimizer_state(path, groups["optimizer"], document, optimizer)
        check_random_states(groups["random"], document["random"])
    except StorageError:
        raise
    except Exception as error:  # whatever hostile values make the parsers raise
        raise StorageError(f"{path}: not a {kind} of format {FORMAT}: {error!r}") from error
    return groups, document, state


def _tidy(folder: Path, newest: Path, keep: int) -> None:
    """Deletes old checkpoints; never `newest`, nor any of later steps."""
    _delete([path for path in sorted(folder.glob("step-*.safetensors")) if path.name <= newest.name][:-keep])


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # the new one is what counts
            path.unlink()


def _by_part(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part not in groups:
            raise StorageError(f"{path}: tensor {name!r} is not part of a checkpoint")
        groups[part][rest] = tensor
    return groups


def count(number: Any) -> int:
    """Returns a number that must be a count; raises ValueError if it is none."""
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{number!r} is no count")
    return number


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
    # Parameters without a gradient have no state; that of the others has the same names, shapes and types.
    wanted = {
        f"optimizer.{number}.{key}": torch.zeros(()) if key == "step" else parameters[number]
        for number in state
        for key in keys
    }
    require_matching(path, {f"optimizer.{name}": tensor for name, tensor in tensors.items()}, wanted)
    current = optimizer.state_dict()["param_groups"]
    saved = document.get("param_groups")
    if not isinstance(saved, list) or len(saved) != len(current) or not all(map(_fits, saved, current)):
        raise StorageError(f"{path}: its optimizer has other parameter groups than this agent's")
    return {"state": state, "param_groups": current}  # the settings are what counts, which a resume may have changed


def _fits(saved: Any, current: Mapping[str, Any]) -> bool:
    """Whether a saved parameter group has no other options than the current, and numbers where that has numbers."""
    if not isinstance(saved, dict) or not saved.keys() <= current.keys() - {"params"}:
        return False
    return all(_shape_of(value) == _shape_of(current[key]) for key, value in saved.items() if key not in HOW)


def _shape_of(option: Any) -> Any:
    if isinstance(option, (list, tuple)):
        return [_shape_of(part) for part in option]
    is_number = isinstance(option, (int, float)) and not isinstance(option, bool) and math.isfinite(option)
    return "number" if is_number else type(option)
