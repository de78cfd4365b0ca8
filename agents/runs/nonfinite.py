"""Numbers that are not finite: the error that ends a training, and its report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.errors import InputError


class NonFiniteError(InputError):
    """A training met a number that is not finite; no weight or checkpoint contains it.

    Attributes:
        report: Which number, and where, as JSON values.
    """

    def __init__(self, message: str, report: Mapping[str, Any]):
        super().__init__(message)
        self.report = dict(report)

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.report)  # between the ranks of a training


def bad_gradients(module: nn.Module) -> list[str]:
    """Returns the names of the parameters whose gradient is not finite."""
    named = module.named_parameters()
    return [name for name, each in named if each.grad is not None and not torch.isfinite(each.grad).all()]


def write_nonfinite_report(folder: Path, error: NonFiniteError, step: int) -> Path:
    """Writes an error's report into a run's folder as `nonfinite-<step>.json` and returns its path."""
    path = folder / f"nonfinite-{step:012d}.json"
    write_atomically(path, (json.dumps({"error": str(error), **error.report}, indent=2) + "\n").encode())
    return path
