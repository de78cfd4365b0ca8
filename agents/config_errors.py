"""What pydantic finds wrong with a configuration, in words that help its author."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ntm_rl.errors import InputError, did_you_mean

_MUST_BE = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

MAX_SHOWN = 100  # characters of a value
MAX_SUGGESTED = 2
SCHEDULES = ("lin_", "linear_", "log_", "cos_")  # of SB3's zoo and its relatives


class ConfigError(InputError):
    """Everything that is wrong with a configuration, a line each."""


def explain(
    error: ValidationError, data: Mapping[str, Any], schema: type[BaseModel], name: str, overridden: Sequence[str]
) -> Iterator[str]:
    """Yields a line for every wrong key: where it stands, its value, and what would be valid.

    Args:
        error: What pydantic found.
        data: The configuration.
        schema: What it should be.
        name: Of the file.
        overridden: Dotted keys that came from the command line.
    """
    explained = set()
    for problem in error.errors():
        path = _path(problem["loc"], data, problem["type"])
        key = ".".join(path)
        if key in explained:
            continue
        explained.add(key)
        where = "command line" if any(key == each or key.startswith(f"{each}.") for each in overridden) else name
        yield f"{where}: {_explain(problem, path, schema)}"


def _explain(problem: Any, path: list[str], schema: type[BaseModel]) -> str:
    key, kind = ".".join(path), problem["type"]
    if kind == "missing":
        return f"{key}: missing"
    value = _show(problem["input"])
    if kind == "extra_forbidden":
        return f"{key} = {value}: unknown key.{_suggest(path, schema)}"
    if kind in _MUST_BE:
        return f"{key} = {value}: must be {_MUST_BE[kind]}{_way_out(path, problem['input'])}"
    if kind == "value_error":
        return f"{key} = {value}: {problem['ctx']['error']}"
    if kind == "literal_error":
        valid = problem["ctx"]["expected"]
        names = [each.strip("'") for each in valid.replace(" or ", ", ").split(", ")]
        return f"{key} = {value}: must be {valid}.{did_you_mean(str(problem['input']), names)}"
    return f"{key} = {value}: {problem['msg'].replace('Input should', 'must').replace('String should', 'must')}"


def _path(location: tuple[int | str, ...], data: Any, kind: str) -> list[str]:
    """Returns the keys of an error's place; of an element of a list, the list's."""
    path: list[str] = []
    for part in location:
        if isinstance(data, Mapping) and (part in data or kind == "missing"):
            path.append(str(part))
            data = data.get(part)
    return path


def _way_out(path: list[str], value: Any) -> str:
    """Returns how to say here what other tools say otherwise."""
    if isinstance(value, str) and value.startswith(SCHEDULES):
        if path[-1] != "learning_rate":
            return "; only learning rates have a schedule"
        number, key = value.partition("_")[2], ".".join(path)
        return f"; for one that falls linearly write {key}={number or '3e-4'} {key}_schedule=linear"
    if path[-1] == "net_arch":
        return ", such as {pi: [64, 64], vf: [64, 64]}, or a list for both"
    return ""


def _suggest(path: list[str], schema: type[BaseModel]) -> str:
    section: Any = schema
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    prefix = ".".join(path[:-1])
    elsewhere = [key for key in _keys(schema) if key.endswith(f".{path[-1]}")]
    if len(path) == 1 and 0 < len(elsewhere) <= MAX_SUGGESTED:
        return f" Did you mean {' or '.join(elsewhere)}?"
    nearest = did_you_mean(path[-1], section.model_fields)
    if nearest:
        return nearest.replace("Did you mean ", f"Did you mean {prefix}." if prefix else "Did you mean ")
    return f" Valid here are {', '.join(section.model_fields)}."


def _keys(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key, described in schema.model_fields.items():
        kind = described.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys(kind, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, list, dict)) else "null" if value is None else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
