"""Numbers that are not finite: the error that ends a training, and the search for what brought them in."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntm_rl.agents.rollout import Minibatch, Rollout
from ntm_rl.agents.storage import write_atomically
from ntm_rl.errors import InputError


class NonFiniteError(InputError):
    """A training met a number that is not finite; its weights and its checkpoints are those from before.

    Attributes:
        report: What it was and where, as JSON values.
    """

    def __init__(self, message: str, report: Mapping[str, Any]):
        super().__init__(message)
        self.report = dict(report)


def check_rollout(rollout: Rollout, steps: int) -> None:
    """Looks at the first `steps` steps of a rollout: one look of the host at the device.

    An observation or a memory that is not finite makes the value so that is computed from it.

    Raises:
        NonFiniteError: names the first quantity that is not finite, with its step and its environment.
    """
    computed = torch.isfinite(rollout.values[:steps] + rollout.log_probs[:steps]).all()
    if np.isfinite(rollout.rewards[:steps]).all() and computed:
        return
    found = _first(rollout, steps)
    raise NonFiniteError(
        f"{found['quantity']} of environment {found['environment']} at step {found['step']} of the rollout is "
        f"{found['value']}",
        found,
    )


def check_observations(rollout: Rollout, steps: int) -> None:
    """As `check_rollout`, of the observations alone: what a policy that failed was given in the last of `steps`."""
    if found := _first(rollout, steps, only_observations=True):
        check = f"environment {found['environment']} at step {found['step']} of the rollout"
        raise NonFiniteError(f"{found['quantity']} of {check} is {found['value']}", found)


def update_error(
    module: nn.Module, batch: Minibatch, values: Tensor, measured: Mapping[str, Tensor], length: int, n_envs: int
) -> NonFiniteError:
    """Describes an update whose loss or gradient is not finite; the weights have not been changed by it.

    Args:
        module: With the gradients.
        batch: What was learnt from.
        values: Values of its transitions with the weights as they are, `[L * B]`.
        measured: The parts of the loss.
        length: L, steps of a sequence.
        n_envs: E.
    """
    parts = {name: float(value) for name, value in measured.items()}
    bad_parts = [name for name, value in parts.items() if not np.isfinite(value)]
    errors = (batch.returns - values).abs().view(length, -1)
    doubtful = ~torch.isfinite(errors).all(dim=0)
    if not doubtful.any():  # nothing but the gradient overflowed: most likely where the error is largest
        doubtful[errors.max(dim=0).values.argmax()] = True
    sequences = [
        {"environment": chunk % n_envs, "steps": [chunk // n_envs * length, (chunk // n_envs + 1) * length - 1]}
        for chunk in batch.chunks[doubtful].tolist()
    ]
    quantity = f"loss ({', '.join(bad_parts)})" if bad_parts else "gradient"
    report = {
        "quantity": quantity,
        "loss": {name: repr(value) for name, value in parts.items()},
        "parameters with such a gradient": bad_gradients(module),
        "sequences": sequences,
    }
    where = ", ".join(f"environment {each['environment']}, steps {each['steps']}" for each in sequences[:3])
    return NonFiniteError(f"the {quantity} of an update is not finite; first inputs: {where}", report)


def bad_gradients(module: nn.Module) -> list[str]:
    """Returns the names of the parameters whose gradient is not finite."""
    named = module.named_parameters()
    return [name for name, each in named if each.grad is not None and not torch.isfinite(each.grad).all()]


def write_report(folder: Path, error: NonFiniteError, step: int) -> Path:
    """Writes what an error found into a run's folder as `nonfinite-<step>.json`."""
    path = folder / f"nonfinite-{step:012d}.json"
    write_atomically(path, (json.dumps({"error": str(error), **error.report}, indent=2) + "\n").encode())
    return path


def _first(rollout: Rollout, steps: int, only_observations: bool = False) -> dict[str, Any]:
    """Returns the first entry that is not finite, by step and then by the order in which a step computes."""
    found: list[tuple[int, int, dict[str, Any]]] = []
    for order, (name, block) in enumerate(_quantities(rollout, only_observations)):
        array = block[:steps].cpu().numpy() if isinstance(block, Tensor) else block[:steps]
        places = np.argwhere(~np.isfinite(array)) if array.dtype.kind == "f" else np.zeros((0, 2))
        if len(places):
            step, environment, *inside = places[0].tolist()
            value = repr(float(array[tuple(places[0])]))
            where = {"step": step, "environment": environment, "index": inside}
            found.append((step, order, {"quantity": name, "value": value, **where}))
    return min(found, key=lambda each: each[:2])[2] if found else {}


def _quantities(rollout: Rollout, only_observations: bool) -> Iterable[tuple[str, Any]]:
    seen = rollout.observations
    for key, block in seen.items() if isinstance(seen, dict) else [("", seen)]:
        yield f"observation {key!r}" if key else "observation", block
    if not only_observations:
        yield "value", rollout.values
        yield "log probability of the action", rollout.log_probs
        yield "reward", rollout.rewards
