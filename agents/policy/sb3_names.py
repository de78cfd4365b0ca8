"""Names of Stable-Baselines3 and sb3-contrib that differ here: errors that give the name here."""

from collections.abc import Iterable, Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor

from ntm_rl.agents.policy.image_extractor import ImageExtractor
from ntm_rl.errors import InputError, did_you_mean

_LSTM_OPTIONS = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs")
_CORE_OPTIONS = {"lstm_hidden_size": "hidden_size", "n_lstm_layers": "layers"}


def check_policy_name(name: str, valid: Iterable[str]) -> None:
    """Checks the name of a policy for MemoryPPO.

    Raises:
        InputError: a policy without a memory core; the message names the one for the same observations.
    """
    valid = list(valid)
    if name in valid:
        return
    prefix = next((each for each in ("MultiInput", "Cnn", "Mlp") if name.startswith(each)), None)
    if prefix is not None and name in (f"{prefix}Policy", f"{prefix}LstmPolicy"):
        use = f"use {prefix + 'NtmPolicy'!r} (policy_kwargs=dict(core='lstm') gives an LSTM)"
        raise InputError(f"policy = {name!r}: MemoryPPO needs a policy with a memory core; {use}")
    raise InputError(f"policy = {name!r}: unknown policy; valid are {', '.join(valid)}.{did_you_mean(name, valid)}")


def check_policy_class(policy: Any, needed: type) -> None:
    """Checks the class of a policy for MemoryPPO.

    Raises:
        InputError: no class, or one without a memory core.
    """
    if not isinstance(policy, type) or not issubclass(policy, needed):
        name = policy.__name__ if isinstance(policy, type) else repr(policy)[:80]
        raise InputError(
            f"policy = {name}: MemoryPPO needs a policy with a memory core: MlpNtmPolicy, CnnNtmPolicy, "
            "MultiInputNtmPolicy or a subclass (policy_kwargs=dict(core='lstm') gives an LSTM)"
        )


def check_observation_kind(policy: str, extractor: type[BaseFeaturesExtractor], space: spaces.Space[Any]) -> None:
    """Checks that a policy's default features extractor reads the observations of a space.

    Raises:
        InputError: it does not; the message names the policy that does.
    """
    shown = f"(observation space = {space})"
    reads_dict = issubclass(extractor, CombinedExtractor)
    if isinstance(space, spaces.Dict) and not reads_dict:
        raise InputError(
            f"You must use `MultiInputNtmPolicy` when working with dict observation space, not {policy} {shown}"
        )
    if reads_dict and not isinstance(space, spaces.Dict):
        raise InputError(
            f"policy = {policy}: is for Dict observations; use MlpNtmPolicy, or CnnNtmPolicy for images {shown}"
        )
    if issubclass(extractor, ImageExtractor) and not (isinstance(space, spaces.Box) and len(space.shape) == 3):
        if isinstance(space, spaces.Box) and len(space.shape) == 2:
            shape = (*space.shape, 1)
            raise InputError(
                f"policy = {policy}: is for images [H, W, C]; add an axis with "
                f"gymnasium.wrappers.ReshapeObservation(env, {shape}), or use MlpNtmPolicy {shown}"
            )
        raise InputError(f"policy = {policy}: is for images; use MlpNtmPolicy {shown}")


def check_numbers(space: spaces.Space[Any]) -> None:
    """Checks that Discrete and MultiDiscrete observations count from 0 in one dimension, as SB3 encodes them.

    Raises:
        InputError: they do not.
    """
    for part in space.spaces.values() if isinstance(space, spaces.Dict) else (space,):
        is_discrete = isinstance(part, spaces.Discrete) and part.start != 0
        if is_discrete or (isinstance(part, spaces.MultiDiscrete) and (part.start.any() or part.nvec.ndim != 1)):
            raise InputError(
                f"observation space = {' '.join(str(part).split())}: must count from 0 in one dimension; "
                "wrap the environment in gymnasium.wrappers.FlattenObservation, which makes it one-hot"
            )


def check_lstm_options(given: Mapping[str, Any]) -> None:
    """Checks that a policy's keyword arguments contain no options of sb3-contrib's LSTM policies.

    Raises:
        InputError: they do; the message names the equivalents here.
    """
    found = {key: given[key] for key in _LSTM_OPTIONS if key in given}
    if not found:
        return
    core_kwargs = {option: found[key] for key, option in _CORE_OPTIONS.items() if key in found}
    equivalent = ["core='lstm'"]
    if core_kwargs:
        equivalent.append(f"core_kwargs=dict({', '.join(f'{key}={value!r}' for key, value in core_kwargs.items())})")
    if found.get("shared_lstm"):
        equivalent.append("critic='detached'")
    elif found.get("enable_critic_lstm"):
        equivalent.append("critic='separate'")
    notes = []
    if found.get("enable_critic_lstm") is False and not found.get("shared_lstm"):
        notes.append(
            "a critic without memory does not exist here; critic must be 'shared', 'joint', 'detached' or 'separate'"
        )
    if found.get("lstm_kwargs"):
        notes.append("`ntm-rl list cores` shows the core_kwargs")
    options = ", ".join(f"{key} = {value!r}" for key, value in found.items())
    raise InputError(
        f"{options}: for sb3-contrib's LSTM policies; use policy_kwargs=dict({', '.join(equivalent)})"
        + "".join(f"; {note}" for note in notes)
    )
