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
        return f"{key} = {value}: must be {_MUST_BE[kind]}"
    if kind == "literal_error":
        valid = problem["ctx"]["expected"]
        names = [each.strip("'") for each in valid.replace(" or ", ", ").split(", ")]
        return f"{key} = {value}: must be {valid}.{did_you_mean(str(problem['input']), names)}"
    return f"{key} = {value}: {problem['msg'].replace('Input should', 'must')}"


def _path(location: tuple[int | str, ...], data: Any, kind: str) -> list[str]:
    """Returns the keys of an error's place; of an element of a list, the list's."""
    path: list[str] = []
    for part in location:
        if isinstance(data, Mapping) and (part in data or kind == "missing"):
            path.append(str(part))
            data = data.get(part)
    return path


def _suggest(path: list[str], schema: type[BaseModel]) -> str:
    section: Any = schema
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    nearest = did_you_mean(path[-1], section.model_fields)
    prefix = ".".join(path[:-1])
    if nearest:
        return nearest.replace("Did you mean ", f"Did you mean {prefix}." if prefix else "Did you mean ")
    return f" Valid here are {', '.join(section.model_fields)}."


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, (str, list, dict)) else "null" if value is None else str(value)
