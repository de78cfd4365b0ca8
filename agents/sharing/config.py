"""The config of a run as it is published: without what concerns this machine or user."""

import re
from collections.abc import Iterator
from typing import Any

from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.yaml_text import to_yaml_text
from ntm_rl.errors import InputError

# Folders, W&B names and this machine's device and processes: the defaults replace them.
LOCAL_KEYS = ("run_dir", "wandb", "tracking", "core_path", "env.path", "policy.init_from", "device", "threads")
PATH = re.compile(r"(file:/)?[/~\\]|[A-Za-z]:[/\\]")


def published_config(settings: AnySettings) -> str:
    """Returns the config as YAML with the defaults of local keys.

    Raises:
        InputError: another value is an absolute path.
    """
    data = settings.model_dump()
    for key in LOCAL_KEYS:
        _remove(data, key)
    for key, text in _texts(data):
        if PATH.match(text):
            raise InputError(
                f"{key} = {text!r}: is a path of this machine, which others must not see and do not have; write a "
                "relative path or another value into the run's config.yaml"
            )
    return to_yaml_text(data)


def _remove(data: dict[str, Any], key: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        data = data.get(section, {})
    data.pop(last, None)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields each text in nested values with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each, key)
