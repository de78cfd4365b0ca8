"""Checks of a policy's keyword arguments, so that wrong ones do not fail inside SB3 or torch."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any, Literal, get_args

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from ntm_rl.checks import require_one_of
from ntm_rl.cores.registry import core_options
from ntm_rl.errors import InputError, did_you_mean

Activation = Literal["Tanh", "ReLU", "ELU", "GELU", "SiLU", "LeakyReLU"]  # names of classes in torch.nn
Critic = Literal["shared", "joint", "detached", "separate"]


def check_policy_options(policy: type, core: str, given: Mapping[str, Any], **dicts: Mapping[str, Any] | None) -> None:
    """Checks a policy's keyword arguments.

    Args:
        policy: The policy's class.
        core: Name of its memory core.
        given: Arguments for SB3's `ActorCriticPolicy`.
        **dicts: Arguments that must be dicts of keyword arguments.

    Raises:
        InputError: an unknown argument, an option of the core, or an argument of another type.
    """
    parameters = inspect.signature(ActorCriticPolicy.__init__).parameters
    own = [name for name, each in inspect.signature(policy).parameters.items() if each.kind is each.KEYWORD_ONLY]
    valid = list(dict.fromkeys([*own, *list(parameters)[4:]]))
    for key in given:
        if key not in parameters:
            hint = f"{policy.__name__} has no such option; valid are {', '.join(valid)}.{did_you_mean(key, valid)}"
            if key in core_options(core):
                hint = f"is an option of the core {core!r}: policy_kwargs=dict(core_kwargs=dict({key}={given[key]!r}))"
            raise InputError(f"policy_kwargs.{key}: {hint}")
        if isinstance(parameters[key].default, bool):
            check_flag(f"policy_kwargs.{key}", given[key])
    for key, options in dicts.items():
        if options is not None and not isinstance(options, Mapping):
            raise InputError(f"policy_kwargs.{key} = {options!r}: must be a dict of keyword arguments")
    activation = given.get("activation_fn", nn.Tanh)
    if isinstance(activation, nn.Module) or not callable(activation):
        raise InputError(f"policy_kwargs.activation_fn = {activation!r}: must be a class, such as torch.nn.ReLU")


def check_critic(critic: Any, popart: bool, share_features_extractor: bool) -> None:
    """Checks `critic` and `popart`, and that one core does not have two features extractors.

    Raises:
        InputError: an unknown critic, no bools, or separate features extractors without separate cores.
    """
    check_flag("policy_kwargs.popart", popart)
    check_flag("policy_kwargs.share_features_extractor", share_features_extractor)
    require_one_of(get_args(Critic), critic=critic)
    if not share_features_extractor and critic != "separate":
        raise InputError(
            f"share_features_extractor = False: one core cannot read two features extractors; "
            f"use critic = 'separate' (now {critic!r}) or share the extractor"
        )


def check_flag(key: str, value: Any) -> None:
    """Raises an `InputError` if a value is not True or False; as in SB3, 1 and 0 are, and None is False."""
    if value not in (True, False, None):
        raise InputError(f"{key} = {value!r}: must be True or False")


def check_net_arch(net_arch: Any) -> None:
    """Checks the layers after the core.

    Raises:
        InputError: neither a list of sizes nor a dict of such lists for `pi` and `vf`.
    """
    old = isinstance(net_arch, (list, tuple)) and len(net_arch) == 1 and isinstance(net_arch[0], Mapping)
    given = net_arch[0] if old else net_arch  # the old format, for which SB3 warns
    parts = given if isinstance(given, Mapping) else {"pi": given}
    if not parts.keys() <= {"pi", "vf"} or not all(map(_are_layers, parts.values())):
        raise InputError(
            f"policy_kwargs.net_arch = {net_arch!r}: must be a list of layer sizes, such as [64], or a dict of such "
            "lists for actor and critic, such as dict(pi=[64], vf=[64])"
        )


def check_keywords(
    key: str, function: Callable[..., Any], given: Mapping[str, Any] | None, reserved: Iterable[str]
) -> None:
    """Checks the user's keyword arguments for a class of the user's choice.

    Args:
        key: Name of the option with the keyword arguments.
        function: The class.
        given: The keyword arguments.
        reserved: Names of arguments that the policy passes itself.

    Raises:
        InputError: an argument that the class does not have, or not a class.
    """
    if not callable(function):
        raise InputError(f"policy_kwargs.{key.removesuffix('kwargs')}class = {function!r}: must be a class")
    parameters = inspect.signature(function).parameters
    reserved = list(reserved)
    valid = [name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD and name not in reserved]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for name in given or {}:
        if name in reserved or not (takes_any or name in valid):
            options = ", ".join(valid) or "none"
            raise InputError(
                f"policy_kwargs.{key}.{name}: not valid for {getattr(function, '__name__', function)}; valid are "
                f"{options}.{did_you_mean(name, valid)}"
            )


def _are_layers(sizes: Any) -> bool:
    return isinstance(sizes, (list, tuple)) and all(
        isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1 for size in sizes
    )
