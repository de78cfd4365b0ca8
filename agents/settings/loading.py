"""Loads config files and overrides as validated settings."""

import inspect
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from ntm_rl.agents.settings.core_modules import custom_core
from ntm_rl.agents.settings.environment_variables import check_environment_variables
from ntm_rl.agents.settings.errors import ConfigError, explain, place
from ntm_rl.agents.settings.paths import user_path
from ntm_rl.agents.settings.schema import (
    PpoTrainingSettings,
    SupervisedTrainingSettings,
    ppo_schema,
    supervised_schema,
)
from ntm_rl.agents.settings.values import coerce, keys_of, with_overrides
from ntm_rl.agents.settings.yaml_text import YamlError, read_bounded, read_yaml, to_yaml_text
from ntm_rl.cores.registry import core_names, make_core
from ntm_rl.errors import InputError, did_you_mean

AnySettings = PpoTrainingSettings | SupervisedTrainingSettings
MAX_PARAMETERS = 2**31  # per core


def config_names() -> list[str]:
    """Returns the names of the packaged configs, such as `popgym/repeat_previous_easy`."""
    root = files("ntm_rl.configs")
    return sorted(
        f"{group.name}/{file.name.removesuffix('.yaml')}"
        for group in root.iterdir()
        if group.is_dir()
        for file in group.iterdir()
        if file.name.endswith(".yaml")
    )


def config_text(config: str) -> str:
    """Returns the text of a config file or a packaged config.

    Raises:
        ConfigError: no such config, or it cannot be read.
    """
    path = _file(config)
    if path is None:
        return files("ntm_rl.configs").joinpath(f"{config}.yaml").read_text()
    try:
        return read_bounded(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"config = {config!r}: must be UTF-8: {error}") from error
    except (OSError, YamlError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"config = {config!r}: cannot be read: {reason}") from error


def load_settings(config: str, overrides: Iterable[str] = ()) -> AnySettings:
    """Loads a config, applies `key=value` overrides and validates the result.

    Args:
        config: Path of a YAML file, or name of a packaged config.
        overrides: Settings such as `ppo.learning_rate=1e-4`.

    Raises:
        ConfigError: lists all errors, one per line.
    """
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
    return settings


def _read(config: str) -> tuple[dict[str, Any], str]:
    """Returns the contents of a config and its name."""
    name = str(_file(config) or f"configs/{config}.yaml")
    try:
        data = read_yaml(config_text(config))
    except YamlError as error:
        raise ConfigError(f"{name}: not a valid config: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values")
    return data, name


def _file(config: str) -> Path | None:
    """Returns the path of a config file, None for a packaged config.

    Raises:
        ConfigError: no such config.
    """
    names = config_names()
    if config in names and not Path(config).is_file():
        return None
    path = user_path("config", config)
    try:
        if path.is_file():
            return path
        if path.exists():
            hint = "; to continue a run use `ntm-rl resume`" if (path / "config.yaml").is_file() else ""
            raise ConfigError(f"config = {config!r}: must be a YAML file{hint}")
    except OSError as error:  # name too long, symlink loop
        raise ConfigError(f"config = {config!r}: cannot be read: {error.strerror}") from error
    if "=" in config:
        raise ConfigError(f"config = {config!r}: the config comes first: ntm-rl train CONFIG key=value")
    name = config.removesuffix(".yaml").removesuffix(".yml").removeprefix("configs/")
    siblings = [str(file) for file in path.parent.glob("*.yaml")]
    hint = did_you_mean(str(path), siblings) or did_you_mean(name, names)
    hint = hint or " `ntm-rl list configs` lists the packaged configs."
    raise ConfigError(f"config = {config!r}: no such file or packaged config.{hint}")


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
    ppo = settings.ppo
    length = ppo.sequence_length or ppo.n_steps
    if ppo.n_steps % length:
        yield f"ppo.sequence_length = {length}: must divide ppo.n_steps = {ppo.n_steps}"
    elif ppo.batch_size % length:
        yield f"ppo.batch_size = {ppo.batch_size}: must be a multiple of ppo.sequence_length = {length}"
    if ppo.batch_size > ppo.n_steps * settings.n_envs:
        total = ppo.n_steps * settings.n_envs
        yield f"ppo.batch_size = {ppo.batch_size}: must be at most ppo.n_steps * n_envs = {total}"


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
            text = kind.__name__ if inspect.isclass(kind) else str(kind).replace("typing.", "")
            yield f"{prefix}{key}", text, default, described.description or ""
