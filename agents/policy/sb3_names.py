"""Names of stable-baselines3 and sb3-contrib that mean something else here, answered with what is meant."""

from collections.abc import Iterable, Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor

from ntm_rl.agents.policy.image_extractor import ImageExtractor
from ntm_rl.errors import InputError, did_you_mean

_LSTM_OPTIONS = ("lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm", "lstm_kwargs")
_CORE_OPTIONS = {"lstm_hidden_size": "hidden_size", "n_lstm_layers": "layers"}


def check_policy_name(name: str, valid: Iterable[str]) -> None:
    """Checks the name of a policy that MemoryPPO is given.

    Raises:
        InputError: it has no memory core; names the one that reads the same observations.
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
    """Checks the class of a policy that MemoryPPO is given.

    Raises:
        InputError: it is no class, or has no memory core.
    """
    if not isinstance(policy, type) or not issubclass(policy, needed):
        name = policy.__name__ if isinstance(policy, type) else repr(policy)[:80]
        raise InputError(
            f"policy = {name}: MemoryPPO needs a policy with a memory core: MlpNtmPolicy, CnnNtmPolicy, "
            "MultiInputNtmPolicy or a subclass (policy_kwargs=dict(core='lstm') gives an LSTM)"
        )


def check_observation_kind(policy: str, extractor: type[BaseFeaturesExtractor], space: spaces.Space[Any]) -> None:
    """Checks that a policy's own features extractor reads observations of a kind.

    Raises:
        InputError: it does not; names the policy that does.
    """
    what = f"(observation space = {space})"
    reads_dict = issubclass(extractor, CombinedExtractor)
    if isinstance(space, spaces.Dict) and not reads_dict:
        raise InputError(
            f"You must use `MultiInputNtmPolicy` when working with dict observation space, not {policy} {what}"
        )
    if reads_dict and not isinstance(space, spaces.Dict):
        raise InputError(
            f"policy = {policy}: is for Dict observations; use MlpNtmPolicy, for images CnnNtmPolicy {what}"
        )
    if issubclass(extractor, ImageExtractor) and not (isinstance(space, spaces.Box) and len(space.shape) == 3):
        raise InputError(f"policy = {policy}: is for images; use MlpNtmPolicy {what}")


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


def check_options(given: Mapping[str, Any]) -> None:
    """Checks a policy's keyword arguments for those of sb3-contrib's LSTM policies.

    Raises:
        InputError: there are some; names the options of ours that mean the same.
    """
    found = {key: given[key] for key in _LSTM_OPTIONS if key in given}
    if not found:
        return
    core_kwargs = {ours: found[theirs] for theirs, ours in _CORE_OPTIONS.items() if theirs in found}
    meant = ["core='lstm'"]
    if core_kwargs:
        meant.append(f"core_kwargs=dict({', '.join(f'{key}={value!r}' for key, value in core_kwargs.items())})")
    if found.get("shared_lstm"):
        meant.append("critic='detached'")
    elif found.get("enable_critic_lstm"):
        meant.append("critic='separate'")
    notes = ["a critic without a memory is not among critic='shared', 'detached' and 'separate'"] * (
        found.get("enable_critic_lstm") is False and not found.get("shared_lstm")
    ) + ["`ntm-rl list cores` shows what core_kwargs there are"] * bool(found.get("lstm_kwargs"))
    options = ", ".join(f"{key} = {value!r}" for key, value in found.items())
    raise InputError(
        f"{options}: for sb3-contrib's LSTM policies; what is meant is policy_kwargs=dict({', '.join(meant)})"
        + "".join(f"; {note}" for note in notes)
    )
