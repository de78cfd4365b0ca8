"""Checks of a policy's keyword arguments, before they fail somewhere inside SB3 or torch."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral
from typing import Any, Literal

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from ntm_rl.cores.registry import core_options
from ntm_rl.errors import InputError, did_you_mean

Activation = Literal["Tanh", "ReLU", "ELU", "GELU", "SiLU", "LeakyReLU"]  # names of classes in torch.nn


def check_policy_options(policy: type, core: str, given: Mapping[str, Any], **dicts: Mapping[str, Any] | None) -> None:
    """Checks a policy's keyword arguments.

    Args:
        policy: Whose they are.
        core: Name of its memory core.
        given: Those that the policy hands on to SB3's `ActorCriticPolicy`.
        **dicts: Those that are dicts of keyword arguments.

    Raises:
        InputError: an unknown one, an option of the core among them, or one of another type.
    """
    parameters = inspect.signature(ActorCriticPolicy.__init__).parameters
    own = [name for name, each in inspect.signature(policy).parameters.items() if each.kind is each.KEYWORD_ONLY]
    valid = list(dict.fromkeys([*own, *list(parameters)[4:]]))
    for key in given:
        if key in parameters:
            continue
        if key in core_options(core):
            way = f"is an option of the core {core!r}: policy_kwargs=dict(core_kwargs=dict({key}={given[key]!r}))"
        else:
            way = f"{policy.__name__} has no such option; it has {', '.join(valid)}.{did_you_mean(key, valid)}"
        raise InputError(f"policy_kwargs.{key}: {way}")
    for key, options in dicts.items():
        if options is not None and not isinstance(options, Mapping):
            raise InputError(f"policy_kwargs.{key} = {options!r}: must be a dict of keyword arguments")
    activation = given.get("activation_fn", nn.Tanh)
    if isinstance(activation, nn.Module) or not callable(activation):
        raise InputError(f"policy_kwargs.activation_fn = {activation!r}: must be a class, such as torch.nn.ReLU")


def check_net_arch(net_arch: Any) -> None:
    """Checks the layers behind the core.

    Raises:
        InputError: neither a list of sizes, nor a dict of such lists for `pi` and `vf`.
    """
    old = isinstance(net_arch, (list, tuple)) and len(net_arch) == 1 and isinstance(net_arch[0], Mapping)
    given = net_arch[0] if old else net_arch  # SB3 warns of it
    parts = given if isinstance(given, Mapping) else {"pi": given}
    if not parts.keys() <= {"pi", "vf"} or not all(map(_are_layers, parts.values())):
        raise InputError(
            f"policy_kwargs.net_arch = {net_arch!r}: must be a list of layer sizes, such as [64], or a dict of one for "
            "the actor and one for the critic, such as dict(pi=[64], vf=[64])"
        )


def check_keywords(
    key: str, function: Callable[..., Any], given: Mapping[str, Any] | None, taken: Iterable[str]
) -> None:
    """Checks that a class that the user chose takes the keyword arguments that the user gave for it.

    Args:
        key: Name of the option that holds them.
        function: What is called with them.
        given: The keyword arguments.
        taken: Names of arguments that are given already.

    Raises:
        InputError: it does not take one of them, or is no class or function.
    """
    if not callable(function):
        raise InputError(f"policy_kwargs.{key.removesuffix('kwargs')}class = {function!r}: must be a class")
    parameters = inspect.signature(function).parameters
    taken = list(taken)
    valid = [name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD and name not in taken]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for name in given or {}:
        if name in taken or not (takes_any or name in valid):
            options = ", ".join(valid) or "none"
            raise InputError(
                f"policy_kwargs.{key}.{name}: not for {getattr(function, '__name__', function)}, which takes here "
                f"{options}.{did_you_mean(name, valid)}"
            )


def _are_layers(sizes: Any) -> bool:
    return isinstance(sizes, (list, tuple)) and all(
        isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1 for size in sizes
    )
