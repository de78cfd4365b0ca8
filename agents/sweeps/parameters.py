"""The parameters of a search space: ranges and choices of the values of a config key."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import Trial

from ntm_rl.agents.settings.values import Schema, alternatives_of, coerce, kind_at
from ntm_rl.agents.settings.yaml_text import Typed, plain, to_flow_text
from ntm_rl.errors import InputError, did_you_mean

RANGE = ("low", "high", "step", "log")
OPTIONS = (*RANGE, "values", "when")
OTHER_WORDS = {"min": "low", "max": "high", "choices": "values", "q": "step", "if": "when"}  # of other tools
TOLERANCE = 1e-9  # of a number of steps that floating-point arithmetic computes
FORMS = "a list of values, or {low: ..., high: ...}"


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`.

    Attributes:
        low: The lowest value.
        high: The highest value.
        step: Distance of two values; None: any number, or any integer.
        log: Whether values are drawn uniformly on a logarithmic scale.
        is_integer: Whether the values are integers.
    """

    low: float
    high: float
    step: float | None
    log: bool
    is_integer: bool

    @property
    def examples(self) -> tuple[Any, ...]:
        """Both ends of the range."""
        return self.low, self.high

    def suggest(self, trial: Trial, key: str) -> Any:
        """Returns the value of a key in a trial, as Optuna stores it."""
        if self.is_integer:
            return trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def value(self, stored: Any) -> Any:
        """Returns the value of the config key for a stored one."""
        return stored

    def describe(self) -> dict[str, Any]:
        """Returns the range as JSON values."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **step, **({"log": True} if self.log else {})}


@dataclass(frozen=True)
class Choice:
    """Some values, in any order: numbers, text, booleans, null, lists or mappings."""

    values: tuple[Any, ...]

    @property
    def labels(self) -> list[Any]:
        """The values, with lists and mappings as YAML text, which is all that Optuna stores."""
        return [to_flow_text(each) if isinstance(each, (list, dict)) else each for each in self.values]

    @property
    def examples(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def suggest(self, trial: Trial, key: str) -> Any:
        """Returns the value of a key in a trial, as Optuna stores it."""
        return trial.suggest_categorical(key, self.labels)

    def value(self, stored: Any) -> Any:
        """Returns the value of the config key for a stored one."""
        return self.values[self.labels.index(stored)]

    def describe(self) -> dict[str, Any]:
        """Returns the values as JSON values."""
        return {"values": list(self.values)}


@dataclass(frozen=True)
class Parameter:
    """A config key that a sweep varies.

    Attributes:
        key: The dotted key.
        domain: Its values.
        when: Keys of the space and the values that they must have for this key to be set.
    """

    key: str
    domain: Range | Choice
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Returns the parameter as JSON values."""
        when = {key: list(values) for key, values in self.when.items()}
        return {**self.domain.describe(), **({"when": when} if when else {})}


class ParameterError(InputError):
    """The errors of one parameter, one per line."""


def read_parameter(key: str, text: Any, schema: Schema) -> Parameter:
    """Returns the parameter that a search space states for a key.

    Args:
        key: The dotted key.
        text: Result of `read_yaml`.
        schema: Schema of the config.

    Raises:
        ParameterError: an unknown option, an impossible range, or a value of the wrong type.
    """
    if isinstance(text, list):
        text = {"values": text}
    if not isinstance(text, Mapping):
        raise ParameterError(f"{key} = {_show(text)}: must be {FORMS}")
    if not text.keys() & {"low", "high", "values", *OTHER_WORDS} and _has_parts(text):
        part = next(iter(text))
        raise ParameterError(f"{key}: must be {FORMS}; write keys with dots: {key}.{part}: ...")
    errors = [f"{key}.{name}: unknown option.{_suggest(name)}" for name in text if name not in OPTIONS]
    if "values" in text and (both := [name for name in RANGE if name in text]):
        errors.append(f"{key}: has values and {both[0]}; leave out one of them")
    if errors:
        raise ParameterError("\n".join(errors))
    kind = kind_at(schema, key)
    domain = _read_choice(key, text["values"], kind) if "values" in text else _read_range(key, text, kind)
    return Parameter(key, domain, _read_conditions(key, text["when"], schema) if "when" in text else {})


def _has_parts(text: Mapping[str, Any]) -> bool:
    return any(isinstance(each, (Mapping, list)) for name, each in text.items() if name != "when")


def _suggest(name: str) -> str:
    if name in OTHER_WORDS:
        return f" Did you mean {OTHER_WORDS[name]}?"
    return did_you_mean(name, OPTIONS) or f" Valid are {', '.join(OPTIONS)}."


def _read_choice(key: str, values: Any, kind: Any) -> Choice:
    if not isinstance(values, list) or not values:
        raise ParameterError(f"{key}.values = {_show(values)}: must be a list of at least one value")
    choice = Choice(tuple(plain(coerce(each, kind)) for each in values))
    labels = choice.labels
    for number, label in enumerate(labels):
        if label in labels[:number]:
            raise ParameterError(f"{key}: has the value {to_flow_text(label)} twice")
        if isinstance(label, float) and not math.isfinite(label):
            raise ParameterError(f"{key} = {label}: must be a finite number")
    return choice


def _read_range(key: str, text: Mapping[str, Any], kind: Any) -> Range:
    numbers, errors = {name: plain(text[name]) for name in ("low", "high", "step") if name in text}, []
    for name in ("low", "high"):
        if name not in text:
            errors.append(f"{key}.{name}: missing; a range is {{low: ..., high: ...}}")
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            errors.append(f"{key}.{name} = {_show(text[name])}: must be a finite number")
    log = plain(text.get("log", False))
    if not isinstance(log, bool):
        errors.append(f"{key}.log = {_show(text['log'])}: must be true or false")
    if not errors:
        is_integer = _is_integer(key, kind, numbers)
        errors = list(_range_errors(key, numbers, log, is_integer))
    if errors:
        raise ParameterError("\n".join(errors))
    convert = int if is_integer else float
    step = convert(numbers["step"]) if "step" in numbers else None
    return Range(convert(numbers["low"]), convert(numbers["high"]), step, log, is_integer)


def _is_integer(key: str, kind: Any, numbers: Mapping[str, float]) -> bool:
    alternatives = alternatives_of(kind)
    if float in alternatives:
        return False
    if int in alternatives:
        return True
    if Any in alternatives:  # a key without a type, such as an argument of an environment
        return all(isinstance(number, int) for number in numbers.values())
    raise ParameterError(f"{key}: is not a number; give a list of values")


def _range_errors(key: str, numbers: Mapping[str, float], log: bool, is_integer: bool) -> Iterator[str]:
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    for name, number in numbers.items():
        if is_integer and number != int(number):
            yield f"{key}.{name} = {number}: must be an integer"
    if low >= high:
        yield f"{key}: low = {low} must be below high = {high}"
    if log and low <= 0:
        yield f"{key}: low = {low} must be above 0, as log = true"
    if step is None:
        return
    if log:
        yield f"{key}: has step and log; leave out one of them"
    elif step <= 0:
        yield f"{key}.step = {step}: must be above 0"
    elif low < high and abs((steps := (high - low) / step) - round(steps)) > TOLERANCE * max(1.0, steps):
        yield f"{key}: high = {high} must be low plus a multiple of step, such as {low + math.floor(steps) * step}"


def _read_conditions(key: str, when: Any, schema: Schema) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping) or not when:
        raise ParameterError(f"{key}.when = {_show(when)}: must be {{KEY: VALUE}} or {{KEY: [VALUE, ...]}}")
    return {
        name: tuple(
            plain(coerce(each, kind_at(schema, name))) for each in (values if isinstance(values, list) else [values])
        )
        for name, values in when.items()
    }


def _show(value: Any) -> str:
    text = (value.text or "null") if isinstance(value, Typed) else to_flow_text(plain(value))
    return text if len(text) <= 100 else f"{text[:100]}..."
