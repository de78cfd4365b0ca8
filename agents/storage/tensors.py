"""Files of tensors and a JSON document, written atomically and checked on reading."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ntm_rl.agents.storage.files import StorageError, write_atomically

CAUSES = "was the config changed, or the file written by another version of ntm-rl?"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON document as one safetensors file with a checksum over both.

    Raises:
        WriteError: as `write_atomically`.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(document, sort_keys=True)
    write_atomically(path, to_safetensors(ready, {"document": text, "sha256": _digest(ready, text)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of `write_tensors` without executing anything in it.

    Memory use is proportional to the file's size, even if its header is hostile.

    Raises:
        StorageError: missing, truncated, or with another checksum.
    """
    if not path.is_file():  # opening a pipe would block
        raise StorageError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        text, digest = metadata["document"], metadata["sha256"]
        if digest != _digest(tensors, text):
            raise StorageError(f"{path}: damaged or altered: wrong checksum; use another checkpoint")
        document = json.loads(text)
        # safetensors returns views of the memory-mapped file, which later changes of the file would alter.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    except StorageError:
        raise
    except Exception as error:  # a hostile file makes the parsers raise anything
        raise StorageError(f"{path}: damaged or not written by ntm-rl ({error}); use another checkpoint") from error
    if not isinstance(document, dict):
        raise StorageError(f"{path}: damaged or not written by ntm-rl (its document is not a mapping)")
    return tensors, document


def require_format(path: Path, document: Mapping[str, Any], kind: str, number: int) -> None:
    """Checks the `kind` and `format` of a file's document.

    Raises:
        StorageError: another kind, or the format of another version of ntm-rl.
    """
    found = document.get("format")
    if document.get("kind") != kind:
        raise StorageError(f"{path}: {document.get('kind')!r} of format {found!r}, must be {kind!r} of format {number}")
    if found != number:
        raise StorageError(
            f"{path}: {kind!r} of format {found!r}, but this version of ntm-rl reads format {number}; load it with the "
            "version that wrote it, or train again"
        )


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a module; shared ones once, under their first name."""
    named = module.state_dict(keep_vars=True).items()  # the parameters themselves, to find shared ones by identity
    first = {id(tensor): name for name, tensor in reversed(named)}
    return {name: tensor for name, tensor in named if first[id(tensor)] == name}


def put_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies weights, as `weights_of` returns them and `require_matching` has checked them, into a module."""
    with torch.no_grad():
        for name, tensor in weights_of(module).items():
            tensor.copy_(weights[name])


def require_matching(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Checks that tensors have the names, shapes and dtypes of `expected`, and finite values.

    Raises:
        StorageError: names the first that does not.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise StorageError(f"{path}: it has no tensor {name!r}, which this agent needs; {CAUSES}")
        if found[name].shape != tensor.shape:
            shapes = f"{list(found[name].shape)}, must be {list(tensor.shape)}"
            raise StorageError(f"{path}: tensor {name!r} has shape {shapes}; {CAUSES}")
        if found[name].dtype != tensor.dtype:
            raise StorageError(f"{path}: tensor {name!r} has dtype {found[name].dtype}, must be {tensor.dtype}")
        if found[name].is_floating_point() and not torch.isfinite(found[name]).all():
            raise StorageError(f"{path}: tensor {name!r} contains values that are not finite")
    for name in found:
        if name not in expected:
            raise StorageError(f"{path}: tensor {name!r} is not part of this agent; {CAUSES}")


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
