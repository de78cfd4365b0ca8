"""Loads config files and overrides as validated settings."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from ntm_rl.agents.settings.core_modules import custom_core
from ntm_rl.agents.settings.environment_variables import check_environment_variables
from ntm_rl.agents.settings.errors import ConfigError, explain, place
from ntm_rl.agents.settings.schema import (
    PpoTrainingSettings,
    SupervisedTrainingSettings,
    ppo_schema,
    supervised_schema,
)
from ntm_rl.agents.settings.sources import read_config
from ntm_rl.agents.settings.values import coerce, keys_of, type_name, with_overrides
from ntm_rl.agents.settings.yaml_text import YamlError, read_yaml, to_yaml_text
from ntm_rl.cores.registry import core_names, make_core
from ntm_rl.errors import InputError, did_you_mean

AnySettings = PpoTrainingSettings | SupervisedTrainingSettings
MAX_PARAMETERS = 2**31  # per core


def load_settings(config: str, overrides: Iterable[str] = ()) -> AnySettings:
    """Loads a config, applies `key=value` overrides and validates the result.

    Args:
        config: Path of a YAML file, name of a packaged config, or id of an environment (the default settings).
        overrides: Settings such as `ppo.learning_rate=1e-4`.

    Raises:
        ConfigError: lists all errors, one per line.
    """
    return load_config(config, overrides)[1]


def load_config(config: str, overrides: Iterable[str] = ()) -> tuple[dict[str, Any], AnySettings]:
    """Returns the keys and values that a config and overrides state, and the settings; see `load_settings`."""
    check_environment_variables()
    overrides = list(overrides)
    data, name = _read(config)
    try:
        merged = with_overrides(data, overrides, schema_of(data))
    except YamlError as error:
        raise ConfigError(f"command line: {error}") from error
    overridden = keys_of(overrides)
    settings = check_settings(merged, name, overridden)
    # Not in check_settings: runs of other machines can be evaluated on this one's CPU.
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"{place('device', name, overridden)}: device = {settings.device!r}: torch sees no CUDA device; use cpu "
            "or auto"
        )
    return coerce(merged, schema_of(merged)), settings


def _read(config: str) -> tuple[dict[str, Any], str]:
    """Returns the contents of a config and its name."""
    text, name = read_config(config)
    try:
        data = read_yaml(text)
    except YamlError as error:
        raise ConfigError(f"{name}: not a valid config: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values")
    if not data.keys() & {"env", "task"} and any(
        "." in str(key) and isinstance(value, (list, dict)) for key, value in data.items()
    ):
        raise ConfigError(f"{name}: this is a search space, not a config; use ntm-rl sweep CONFIG {config}")
    return data, name


def check_settings(data: Mapping[str, Any], name: str, overridden: Iterable[str] = ()) -> AnySettings:
    """Validates the keys of a config and their combination.

    Args:
        data: Nested keys and values; `task` makes it a supervised training, `env` a PPO training.
        name: Name of the file, for the errors.
        overridden: Dotted keys that came from the command line.

    Raises:
        ConfigError: lists all errors, one per line.
    """
    overridden = list(overridden)
    settings = validate(data, name, overridden)
    errors = [f"{place(each.partition(' ')[0], name, overridden)}: {each}" for each in _errors(settings)]
    if errors:
        raise ConfigError("\n".join(errors))
    return settings


def without_effect(settings: AnySettings, overrides: Iterable[str]) -> list[str]:
    """Returns the keys of overrides that have no effect because they are options of other cores."""
    chosen = f"memory.{settings.core_name}."
    return [key for key in keys_of(overrides) if key.startswith("memory.") and not f"{key}.".startswith(chosen)]


def validate(data: Mapping[str, Any], name: str, overridden: Iterable[str] = ()) -> AnySettings:
    """Validates each key of a config alone; arguments and errors are those of `check_settings`."""
    schema = schema_of(data)
    values = coerce(data, schema)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, values, schema, name, list(overridden)))) from error


def schema_of(data: Mapping[str, Any]) -> type[AnySettings]:
    """Returns the schema of a config."""
    core = custom_core(data.get("core"))
    return supervised_schema(core) if "task" in data else ppo_schema(core)


def _errors(settings: AnySettings) -> Iterable[str]:
    if isinstance(settings, SupervisedTrainingSettings):
        yield from _errors_of_task(settings)
    else:
        yield from _errors_of_ppo(settings)
    if settings.core_name != settings.core:
        return  # its module is not imported here: the config may be another user's
    if settings.core not in core_names():
        hint = did_you_mean(settings.core, core_names())
        yield f"core = {settings.core!r}: unknown core; valid are {', '.join(core_names())}.{hint}"
        return
    try:
        with torch.device("meta"):  # runs the core's own checks without allocating memory
            core = make_core(settings.core, 1, **settings.core_kwargs)
    except InputError as error:
        yield f"memory.{settings.core}.{error}"
        return
    parameters = sum(each.numel() for each in core.parameters())
    if parameters > MAX_PARAMETERS:
        yield f"memory.{settings.core}: has {parameters:,} parameters; must be at most {MAX_PARAMETERS:,}"


def _errors_of_ppo(settings: PpoTrainingSettings) -> Iterable[str]:
    """Yields the errors in sizes; "auto" is replaced later by one that fits, if any does."""
    n_envs, n_steps, batch_size = settings.n_envs, settings.ppo.n_steps, settings.ppo.batch_size
    length = settings.ppo.sequence_length or n_steps
    if n_steps != "auto" and length != "auto" and n_steps % length:
        yield f"ppo.sequence_length = {length}: must divide ppo.n_steps = {n_steps}"
    elif batch_size != "auto" and length != "auto" and batch_size % length:
        yield f"ppo.batch_size = {batch_size}: must be a multiple of ppo.sequence_length = {length}"
    if n_envs != "auto" and n_steps != "auto" and batch_size != "auto" and batch_size > n_steps * n_envs:
        yield f"ppo.batch_size = {batch_size}: must be at most ppo.n_steps * n_envs = {n_steps * n_envs}"


def _errors_of_task(settings: SupervisedTrainingSettings) -> Iterable[str]:
    try:
        task = settings.make_task()
    except InputError as error:
        yield f"task.{settings.task.name}.{error}"
        return
    for difficulty in settings.validation.longer:
        try:
            task.check(difficulty)
        except InputError as error:
            yield f"validation.longer.{error}"


def to_yaml(settings: AnySettings) -> str:
    """Returns the resolved config as YAML."""
    return to_yaml_text(settings.model_dump())


def to_short_yaml(settings: AnySettings) -> str:
    """Returns the resolved config as YAML without the options of other cores and tasks."""
    data = settings.model_dump()
    data["memory"] = {settings.core_name: settings.core_kwargs}
    if isinstance(settings, SupervisedTrainingSettings):
        name = settings.task.name
        data["task"] = {"name": name, name: data["task"][name]}
    return to_yaml_text(data)


def describe_keys(settings: AnySettings) -> list[tuple[str, str, str, str]]:
    """Returns the dotted name, type, default and description of every key of this kind of training."""
    return list(describe_schema(schema_of(dict(settings))))


def describe_schema(schema: type[BaseModel], prefix: str = "") -> Iterable[tuple[str, str, str, str]]:
    """Yields the dotted name, type, default and description of every key of a schema."""
    for key, described in schema.model_fields.items():
        kind = described.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from describe_schema(kind, f"{prefix}{key}.")
        else:
            default = "required" if described.is_required() else to_yaml_text([described.default])[2:].strip()
            yield f"{prefix}{key}", type_name(kind), default, described.description or ""
