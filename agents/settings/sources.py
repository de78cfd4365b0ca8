"""Finds the config of a name: a YAML file, a packaged config, or an environment with the default settings.

Search spaces of sweeps are YAML files too, or packaged ones.
"""

from importlib.resources import files
from pathlib import Path

from ntm_rl.agents.settings.errors import ConfigError
from ntm_rl.agents.settings.paths import user_path
from ntm_rl.agents.settings.yaml_text import TooLongError, YamlError, read_bounded, to_yaml_text
from ntm_rl.envs.factory import is_environment
from ntm_rl.envs.names import suggest_id
from ntm_rl.errors import did_you_mean

SUFFIXES = (".yaml", ".yml")
USE_RANGE = "write a range {low, high} instead of a long list"
SPACES = "spaces"  # folder of the packaged search spaces


def config_names() -> list[str]:
    """Returns the names of the packaged configs, such as `popgym/repeat_previous_easy`."""
    return [name for name in _packaged_names() if not name.startswith(f"{SPACES}/")]


def space_names() -> list[str]:
    """Returns the names of the packaged search spaces, such as `ntm`."""
    return [name.removeprefix(f"{SPACES}/") for name in _packaged_names() if name.startswith(f"{SPACES}/")]


def is_space(name: str) -> bool:
    """Returns whether a name is that of a packaged search space with its folder, such as `spaces/ntm`."""
    return name.removeprefix(f"{SPACES}/") in space_names() and name.startswith(f"{SPACES}/")


def _packaged_names() -> list[str]:
    root = files("ntm_rl.configs")
    return sorted(
        f"{group.name}/{file.name.removesuffix('.yaml')}"
        for group in root.iterdir()
        if group.is_dir()
        for file in group.iterdir()
        if file.name.endswith(".yaml")
    )


def _packaged_text(name: str) -> tuple[str, str]:
    return files("ntm_rl.configs").joinpath(f"{name}.yaml").read_text(), f"configs/{name}.yaml"


def read_config(config: str) -> tuple[str, str]:
    """Returns the text of a config and its name in error messages.

    Args:
        config: Path of a YAML file, name of a packaged config, or environment id; a file comes before an id.

    Raises:
        ConfigError: no such config, or it cannot be read.
        InputError: the package of the environment is not installed.
    """
    path = user_path("config", config)
    try:
        if path.is_file():
            return _file_text(config, path), str(path)
        if config in config_names():
            return _packaged_text(config)
        if not config.endswith(SUFFIXES) and "=" not in config and is_environment(config):
            return _default_text(config), config
        if path.exists():
            hint = "; to continue a run use `ntm-rl resume`" if (path / "config.yaml").is_file() else ""
            raise ConfigError(f"config = {config!r}: must be a YAML file{hint}")
    except OSError as error:  # name too long, symlink loop
        raise ConfigError(f"config = {config!r}: cannot be read: {error.strerror}") from error
    raise _unknown(config, path)


def read_space(space: str) -> tuple[str, str]:
    """Returns the text of a search space and its name in error messages.

    Args:
        space: Path of a YAML file, or name of a packaged space; a file comes before a name.

    Raises:
        ConfigError: no such space, or it cannot be read.
    """
    path, name = user_path("space", space), space.removeprefix(f"{SPACES}/")
    try:
        if path.is_file():
            return _file_text(space, path, "space"), str(path)
        if path.exists() and name not in space_names():
            raise ConfigError(f"space = {space!r}: must be a YAML file")
    except OSError as error:  # name too long, symlink loop
        raise ConfigError(f"space = {space!r}: cannot be read: {error.strerror}") from error
    if name in space_names():
        return _packaged_text(f"{SPACES}/{name}")
    hint = did_you_mean(space, [*map(str, path.parent.glob("*.yaml")), *space_names()])
    names = ", ".join(space_names())
    raise ConfigError(f"space = {space!r}: no such file; the packaged search spaces are {names}.{hint}")


def _file_text(name: str, path: Path, argument: str = "config") -> str:
    try:
        return read_bounded(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{argument} = {name!r}: must be UTF-8: {error}") from error
    except (OSError, YamlError) as error:
        reason = getattr(error, "strerror", None) or error
        if argument == "space" and isinstance(error, TooLongError):
            reason = f"{error}; {USE_RANGE}"
        raise ConfigError(f"{argument} = {name!r}: cannot be read: {reason}") from error


def _default_text(env_id: str) -> str:
    header = "# The default settings; `ntm-rl show FILE --keys` lists every key.\n"
    return header + to_yaml_text({"env": {"id": env_id}})


def _unknown(config: str, path: Path) -> ConfigError:
    if is_space(config):
        return ConfigError(f"config = {config!r}: a search space; use ntm-rl sweep CONFIG {config}")
    if config.startswith(f"{SPACES}/"):
        hint = did_you_mean(config.removeprefix(f"{SPACES}/"), space_names())
        return ConfigError(f"config = {config!r}: the packaged search spaces are {', '.join(space_names())}.{hint}")
    if "=" in config:
        return ConfigError(f"config = {config!r}: the config comes first: ntm-rl train CONFIG key=value")
    name = config.removesuffix(".yaml").removesuffix(".yml").removeprefix("configs/")
    siblings = [str(file) for file in path.parent.glob("*.yaml")]
    hints = [did_you_mean(str(path), siblings) or did_you_mean(name, config_names())]
    hints += [] if config.endswith(SUFFIXES) else [suggest_id(config)]
    names = [hint.removeprefix(" Did you mean ").removesuffix("?") for hint in hints if hint]
    hint = (
        f"Did you mean {' or '.join(names)}?"
        if names
        else "`ntm-rl list configs` and `ntm-rl list envs` list them; an environment of your own is module:name."
    )
    return ConfigError(f"config = {config!r}: no such file, packaged config or environment. {hint}")
