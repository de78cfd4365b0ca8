"""Merges overrides into a config and converts values to the types of their keys."""

import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from ntm_rl.agents.settings.yaml_text import MAX_INTEGER, Typed, YamlError, read_yaml

Schema = type[BaseModel]


def with_overrides(base: Mapping[str, Any], overrides: Iterable[str], schema: Schema) -> dict[str, Any]:
    """Returns a config with `key=value` overrides; mappings are merged, other values are replaced.

    Raises:
        YamlError: an override that is not `key=value`, or whose value is not valid YAML.
    """
    merged: dict[str, Any] = dict(base)
    for override in overrides:
        key, equals, text = override.lstrip("+").partition("=")  # + and ++ as in Hydra
        if not override.isascii() and not _is_unicode(override):
            raise YamlError(f"{_short(override)}: must be UTF-8")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise YamlError(f"{_short(override)}: must be key=value, such as ppo.learning_rate=1e-4")
        merged = with_value(merged, key, _typed(key, text, schema))
    return merged


def with_value(data: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Returns a config with the value of a dotted key; mappings are merged, other values are replaced."""
    for part in reversed(key.split(".")):
        value = {part: value}
    merged: dict[str, Any] = _merge(data, value)
    return merged


def keys_of(overrides: Iterable[str]) -> list[str]:
    """Returns the dotted keys of `key=value` overrides."""
    return [override.lstrip("+").partition("=")[0] for override in overrides]


def coerce(value: Any, kind: Any) -> Any:
    """Converts the result of `read_yaml` to plain values of the type of an annotation.

    For a string, `12`, `1e3` and `true` keep their text; for an integer, `1e6` is one; where null is valid, `none` is
    null.
    """
    alternatives = alternatives_of(kind)
    if isinstance(value, Typed):
        if str in alternatives and value.value is not None:
            return value.text
        value = value.value
    if isinstance(value, float) and int in alternatives and float not in alternatives:
        return int(value) if value.is_integer() and abs(value) < MAX_INTEGER else value
    if isinstance(value, str) and value.lower() == "none" and _may_be_none(alternatives):
        return None
    if isinstance(value, Mapping):
        return {key: coerce(each, _kind_of_key(alternatives, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [coerce(each, _kind_of_elements(alternatives)) for each in value]
    return value


def _typed(key: str, text: str, schema: Schema) -> Any:
    try:
        value = read_yaml(text)
    except YamlError as error:
        if str not in alternatives_of(kind_at(schema, key)):
            raise YamlError(f"{key} = {_short(text)}: {error}") from error
        return text
    is_quoted = text.strip()[:1] in ("'", '"')
    is_text = str in alternatives_of(kind_at(schema, key))
    # YAML would read text such as [a], {a} or a: b as a list or mapping, and # as a comment.
    return text if is_text and not is_quoted and not isinstance(value, (Typed, type(None))) else value


def _is_unicode(text: str) -> bool:
    """Returns whether a text has no lone surrogates, which stand for bytes that are not UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _merge(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merge(old[key], value) if key in old else value for key, value in new.items()}}


def type_name(kind: Any) -> str:
    """Returns the name of a type annotation, for tables of keys."""
    names = {each: each.__name__ if isinstance(each, type) else str(each) for each in alternatives_of(kind)}
    names[types.NoneType] = "None"
    return " | ".join(names[each].replace("typing.", "") for each in alternatives_of(kind))


def alternatives_of(kind: Any) -> tuple[Any, ...]:
    """Returns the members of a union, without their constraints."""
    if get_origin(kind) is Annotated:
        return alternatives_of(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(inner for each in get_args(kind) for inner in alternatives_of(each))
    return (kind,)


def _may_be_none(alternatives: tuple[Any, ...]) -> bool:
    # Not for a Literal alone: `wandb=none` could also mean "disabled".
    is_literal = any(get_origin(each) is Literal for each in alternatives)
    return type(None) in alternatives and (int in alternatives or not is_literal)


def kind_at(schema: Schema, key: str) -> Any:
    """Returns the type annotation of a dotted key; `Any` for an unknown key."""
    kind: Any = schema
    for part in key.split("."):
        kind = _kind_of_key(alternatives_of(kind), part)
    return kind


def _kind_of_key(alternatives: tuple[Any, ...], key: str) -> Any:
    for each in alternatives:
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each.model_fields[key].annotation if key in each.model_fields else Any
        if get_origin(each) is dict:
            return get_args(each)[1]
    return Any


def _kind_of_elements(alternatives: tuple[Any, ...]) -> Any:
    return next((get_args(each)[0] for each in alternatives if get_origin(each) is list), Any)


def _short(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:40]}...")
