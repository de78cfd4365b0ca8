"""Search spaces: YAML files that give each config key of a sweep its values."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial

from ntm_rl.agents.settings.errors import ConfigError
from ntm_rl.agents.settings.loading import check_settings, schema_of
from ntm_rl.agents.settings.sources import USE_RANGE, read_space
from ntm_rl.agents.settings.values import with_value
from ntm_rl.agents.settings.yaml_text import TooLongError, YamlError, read_yaml, to_flow_text
from ntm_rl.agents.sweeps.parameters import Choice, Parameter, ParameterError, read_parameter
from ntm_rl.errors import did_you_mean

# Keys that a space cannot have, with the reason or the way to set them.
NOT_SWEPT = {
    "seed": "cannot be swept; use --seeds for the number of trainings of a trial",
    "run_dir": "cannot be swept; use --out for the folder of the sweep",
    **{
        key: f"cannot be swept, as scores of different {name} cannot be compared; run a sweep for each"
        for key, name in (("env.id", "environments"), ("env.path", "environments"), ("task.name", "tasks"))
    },
    **dict.fromkeys(
        ("wandb", "tracking", "device", "threads", "processes", "max_restarts", "rank_timeout", "checkpoint", "watch"),
        "is not a hyperparameter; set it on the command line (KEY=...)",
    ),
}


@dataclass(frozen=True)
class Space:
    """The parameters of a sweep, each after those that its conditions name."""

    parameters: tuple[Parameter, ...]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Returns the values of a trial by dotted key, without those whose conditions do not hold."""
        stored: dict[str, Any] = {}
        for each in self.parameters:
            values = self.values(stored)
            if all(key in values and values[key] in valid for key, valid in each.when.items()):
                stored[each.key] = each.domain.suggest(trial, each.key)
        return self.values(stored)

    def values(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of config keys for those that Optuna stores."""
        return {each.key: each.domain.value(stored[each.key]) for each in self.parameters if each.key in stored}

    def describe(self) -> dict[str, Any]:
        """Returns the space as JSON values."""
        return {each.key: each.describe() for each in self.parameters}

    @property
    def is_conditional(self) -> bool:
        """Whether some keys exist only where others have certain values."""
        return any(each.when for each in self.parameters)


def load_space(space: str, base: Mapping[str, Any], overridden: Iterable[str] = ()) -> Space:
    """Reads a search space and validates each of its values as a setting of a config.

    Args:
        space: Path of a YAML file, or name of a packaged space.
        base: Keys and values of the config that the sweep varies.
        overridden: Dotted keys that the command line sets.

    Raises:
        ConfigError: lists all errors, one per line.
    """
    text, name = read_space(space)
    try:
        data = read_yaml(text)
    except TooLongError as error:
        raise ConfigError(f"{name}: {error}; {USE_RANGE}") from error
    except YamlError as error:
        raise ConfigError(f"{name}: not a valid search space: {error}") from error
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"{name}: must be a mapping of config keys to their values")
    parameters, errors = _read_parameters(data, base)
    errors += _conflicts(list(data), list(overridden))
    invalid = {each.key: list(_condition_errors(each, parameters, data)) for each in parameters.values()}
    errors += [error for each in invalid.values() for error in each]
    valid = _sorted({key: each for key, each in parameters.items() if not invalid[key]})
    if not any(invalid.values()):
        errors += [f"{key}.when: the conditions form a cycle" for key in parameters if key not in valid]
    errors += [error for each in valid.values() for error in _parameter_errors(each, valid, base)]
    if errors:
        raise ConfigError("\n".join(f"{name}: {line}" for error in errors for line in error.splitlines()))
    return Space(tuple(valid.values()))


def _read_parameters(data: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[dict[str, Parameter], list[str]]:
    parameters, errors = {}, []
    for key, text in data.items():
        try:
            parameters[key] = read_parameter(key, text, schema_of(base))
        except ParameterError as error:
            errors.append(str(error))
    return parameters, errors


def _conflicts(keys: list[str], overridden: list[str]) -> list[str]:
    """Returns the errors of keys that a sweep cannot vary, or that are set twice."""
    reasons = {key: text for key in keys for other, text in NOT_SWEPT.items() if _overlap(key, other)}
    errors = [f"{key}: {reason.replace('KEY', key)}" for key, reason in reasons.items()]
    for key in keys:
        if key in reasons:
            continue
        for other in keys:
            if other.startswith(f"{key}."):
                errors.append(f"{other}: is a part of {key}, which the space has too; leave out one of them")
        for other in overridden:
            if _overlap(key, other):
                errors.append(f"{key}: the command line sets {other}; leave out one of them")
    return errors


def _overlap(first: str, second: str) -> bool:
    """Returns whether one of two dotted keys is the other or a part of it."""
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")


def _condition_errors(
    parameter: Parameter, parameters: Mapping[str, Parameter], data: Mapping[str, Any]
) -> Iterator[str]:
    for key, values in parameter.when.items():
        place = f"{parameter.key}.when.{key}"
        if key not in data:
            yield f"{place}: not a key of this space; add {key} to the space.{did_you_mean(key, data)}"
        elif key not in parameters:
            yield f"{place}: see the error of {key}"
        elif not isinstance(domain := parameters[key].domain, Choice):
            yield f"{place}: has a range; a condition needs a key with a list of values"
        else:
            for value in values:
                if value not in domain.values:
                    valid = ", ".join(map(to_flow_text, domain.values))
                    yield f"{place} = {to_flow_text(value)}: not a value of {key}; valid are {valid}"


def _sorted(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Returns the parameters, each after those that its conditions name; without those of which that is impossible."""
    waiting, ordered = dict(parameters), dict[str, Parameter]()
    while ready := [key for key, each in waiting.items() if each.when.keys() <= ordered.keys()]:
        ordered |= {key: waiting.pop(key) for key in ready}
    return ordered


def _parameter_errors(parameter: Parameter, parameters: Mapping[str, Parameter], base: Mapping[str, Any]) -> list[str]:
    """Returns the errors of a parameter's values as settings, without those that another parameter may remove."""
    data = _with_parents(parameter, parameters, base)
    errors: dict[str, None] = {}
    for value in parameter.domain.examples:
        for error in setting_errors(with_value(data, parameter.key, value)):
            if ": unknown key." in error:
                return [error]
            if not any(_mentions(error, key) for key in parameters if key != parameter.key):
                errors[error] = None
    return list(errors)


def is_option_of(key: str, core: Any) -> bool:
    """Returns whether a dotted key is an option of a core, which may be `module:name`."""
    return key.startswith(f"memory.{str(core).rpartition(':')[2]}.")


def _mentions(text: str, key: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", text) is not None


def _with_parents(parameter: Parameter, parameters: Mapping[str, Parameter], base: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config in which the conditions of a parameter hold, and in which an option's core is chosen."""
    data = dict(base)
    cores = parameters["core"].domain.examples if "core" in parameters else ()
    for core in cores:
        if is_option_of(parameter.key, core):
            data["core"] = core
    for key, values in parameter.when.items():
        data = with_value(_with_parents(parameters[key], parameters, data), key, values[0])
    return data


def setting_errors(data: Mapping[str, Any]) -> list[str]:
    """Returns the errors of a config, one per line, without the name of a file."""
    try:
        check_settings(data, "")
    except ConfigError as error:
        return [line.removeprefix(": ") for line in str(error).splitlines()]
    return []
