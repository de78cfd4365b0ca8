"""Finds values that are not finite in a rollout or an update."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.rollout import Minibatch, Rollout
from ntm_rl.agents.runs.nonfinite import NonFiniteError, bad_gradients


def check_rollout(
    rollout: Rollout, last_obs: PyTorchObs, last_values: Tensor, normalizer: VecNormalize | None = None
) -> None:
    """Checks that a complete rollout is finite, with one host-device synchronisation.

    Args:
        rollout: The rollout.
        last_obs: Observations after the last step.
        last_values: Their values `[E]`.
        normalizer: The environments' wrapper, whose running variances are checked too.

    Raises:
        NonFiniteError: names the first quantity that is not finite, with its step and environment.
    """
    if normalizer is not None:
        _check_statistics(normalizer)
    observations = [block for _, block in (*_named(rollout.observations), *_named(last_obs))]
    blocks = [
        rollout.values,
        rollout.log_probs,
        last_values,
        *(each for each in observations if each.is_floating_point()),
    ]
    # A sum is finite only if all its terms are. Where a sum of finite terms overflows, nothing is found below.
    if np.isfinite(rollout.rewards).all() and math.isfinite(torch.stack([block.sum() for block in blocks]).sum()):
        return
    steps = rollout.n_steps
    after = [*((name, each[None], steps) for name, each in _named(last_obs)), ("value", last_values[None], steps)]
    _raise_first([*_quantities(rollout), *after], rollout.first_env)


def check_observations(rollout: Rollout, steps: int) -> None:
    """As `check_rollout`, for the observations of the first `steps` steps, after the policy failed."""
    _raise_first([(name, block[:steps], 0) for name, block in _named(rollout.observations)], rollout.first_env)


def check_terminal_observations(observations: PyTorchObs, environments: list[int], step: int) -> None:
    """As `check_rollout`, for the terminal observations of truncated episodes, whose values are added to rewards.

    Args:
        observations: `[n, ...]`.
        environments: Indices of the n environments.
        step: Step of the rollout.
    """
    for name, block in _named(observations):
        if block.is_floating_point():
            for environment, each in zip(environments, block.cpu(), strict=True):
                if not torch.isfinite(each).all():
                    value = repr(float(each[~torch.isfinite(each)][0]))
                    place = {"step": step, "environment": environment}
                    quantity = f"terminal {name}"
                    where = f"{quantity} of environment {environment} at step {step} of the rollout"
                    raise NonFiniteError(f"{where} is {value}", {"quantity": quantity, "value": value, **place})


def check_unnormalized(normalizer: VecNormalize, step: int) -> None:
    """Checks the inputs of a `VecNormalize`, as its statistics would spread one bad value to all environments.

    Args:
        normalizer: After a reset or a step.
        step: Step of its observations in the rollout; its rewards belong to the step before.

    Raises:
        NonFiniteError: as `check_rollout`.
    """
    inputs = [(name, np.asarray(array)) for name, array in _named(normalizer.old_obs)]
    if step > 0:
        inputs.append(("reward", np.asarray(normalizer.old_reward)))
    if not all(array.dtype.kind != "f" or math.isfinite(array.sum()) for _, array in inputs):
        _raise_first([(name, array[None], step - (name == "reward")) for name, array in inputs])


def _check_statistics(normalizer: VecNormalize) -> None:
    """Checks the running variances: an infinite one normalises everything to 0."""
    named: dict[str, Any] = {"reward": normalizer.ret_rms} if normalizer.norm_reward else {}
    if normalizer.norm_obs:
        statistics = normalizer.obs_rms
        parts = statistics if isinstance(statistics, dict) else {"": statistics}
        named |= {f"observation {key!r}" if key else "observation": part for key, part in parts.items()}
    for name, part in named.items():
        if not np.isfinite(part.var).all():
            quantity = f"VecNormalize's running variance of the {name}"
            message = f"{quantity} is not finite: the square of a value overflowed; clip it in the environment"
            raise NonFiniteError(message, {"quantity": quantity, "value": str(part.var)})


@torch.no_grad()
def shared_update_error(
    policy: MlpNtmPolicy, batch: Minibatch, measured: Mapping[str, Tensor], rollout: Rollout
) -> NonFiniteError:
    """Returns the `update_error` of the first rank whose loss is not finite."""
    values, *_ = policy.evaluate_sequences(*batch.inputs)
    error = update_error(policy, batch, values, measured, rollout.sequence_length, rollout.all_envs)
    errors = rollout.ranks.gather_objects((all(map(math.isfinite, measured.values())), str(error), error.report))
    return NonFiniteError(*min(errors, key=lambda each: each[0])[1:])


def update_error(
    module: nn.Module, batch: Minibatch, values: Tensor, measured: Mapping[str, Tensor], length: int, n_envs: int
) -> NonFiniteError:
    """Returns the error for an update whose loss or gradient is not finite.

    Args:
        module: The policy, with the gradients.
        batch: The minibatch.
        values: Values of its transitions under the current weights, `[L * B]`.
        measured: The parts of the loss.
        length: Steps of the rollout's sequences; those of the minibatch may be shorter.
        n_envs: E.
    """
    parts = {name: float(value) for name, value in measured.items()}
    bad_parts = [name for name, value in parts.items() if not np.isfinite(value)]
    steps = len(batch.resets)
    errors = (batch.returns - values).abs().view(steps, -1)
    is_suspect = ~torch.isfinite(errors).all(dim=0)
    if not is_suspect.any():  # only the gradient overflowed, most likely where the error is largest
        is_suspect[errors.max(dim=0).values.argmax()] = True
    sequences = [
        {"environment": index % n_envs, "steps": [index // n_envs * length, index // n_envs * length + steps - 1]}
        for index in batch.indices[is_suspect].tolist()
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


def _raise_first(quantities: Iterable[tuple[str, Any, int]], first_env: int = 0) -> None:
    """Raises for the first value that is not finite, by step and then by the order of the quantities.

    Args:
        quantities: Name, block `[T, E, ...]` and first step of each.
        first_env: Index of the first environment among those of all ranks.
    """
    found: list[tuple[int, int, dict[str, Any]]] = []
    for order, (name, block, first) in enumerate(quantities):
        array = block.cpu().numpy() if isinstance(block, Tensor) else block
        places = np.argwhere(~np.isfinite(array)) if array.dtype.kind == "f" else np.zeros((0, 2))
        if len(places):
            step, environment, *inside = places[0].tolist()
            value = repr(float(array[tuple(places[0])]))
            where = {"step": first + step, "environment": first_env + environment, "index": inside}
            found.append((first + step, order, {"quantity": name, "value": value, **where}))
    if found:
        report = min(found, key=lambda each: each[:2])[2]
        place = f"environment {report['environment']} at step {report['step']} of the rollout"
        raise NonFiniteError(f"{report['quantity']} of {place} is {report['value']}", report)


def _quantities(rollout: Rollout) -> Iterable[tuple[str, Any, int]]:
    for name, block in _named(rollout.observations):
        yield name, block, 0
    yield "value", rollout.values, 0
    yield "log probability of the action", rollout.log_probs, 0
    yield "reward", rollout.rewards, 0


def _named(observations: Any) -> list[tuple[str, Any]]:
    if isinstance(observations, Mapping):
        return [(f"observation {key!r}", block) for key, block in observations.items()]
    return [("observation", observations)]
