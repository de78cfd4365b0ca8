"""What a resumed training may be told anew, and the record of it in the run's folder."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ntm_rl.agents.settings.yaml_text import YamlError, plain, read_bounded, read_yaml, to_yaml_text
from ntm_rl.agents.storage.files import StorageError, write_atomically
from ntm_rl.errors import InputError

HISTORY = "config.history.yaml"
# What made the weights, the random numbers or the folder that are there already.
FIXED = ("core", "memory", "seed", "run_dir", "policy", "optimizer.name", "task.name")
FREE = ("policy.precision",)
MAX_ENTRIES = 200  # of the history
LENGTHS = ("total_timesteps", "total_sequences")
Changes = Mapping[str, tuple[Any, Any]]


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the dotted keys in which two configurations differ, with the old and the new value."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= changes(before, after, f"{prefix}{key}.")
        elif before != after:
            found[f"{prefix}{key}"] = before, after
    return found


def refuse_fixed(changed: Changes) -> None:
    """Raises an `InputError` for changes that could have no effect on a training under way, a line each."""
    fixed = [key for key in changed if _is_under(key, FIXED) and not _is_under(key, FREE)]
    if fixed:
        raise InputError("\n".join(f"{_told(key, changed[key])}: {_reason(key)}" for key in fixed))


@contextmanager
def explained(changed: Changes) -> Iterator[None]:
    """Names the changes where a checkpoint does not fit the settings."""
    try:
        yield
    except StorageError as error:
        if not changed:
            raise
        told = ", ".join(_told(key, value) for key, value in changed.items())
        raise InputError(f"{told}: with that the run's checkpoint does not fit ({error}); leave it out") from error


def refuse_reached(changed: Changes, done: int) -> None:
    """Raises an `InputError` for a new length that the training has reached already."""
    for key in LENGTHS:
        if key in changed and changed[key][1] <= done:
            raise InputError(f"{_told(key, changed[key])}: the run has {done:,} already; valid is more than that")


def tell_changes(changed: Changes, done: int, length: int) -> None:
    """Says on standard error where a resumed training begins, and what differs from the run's config."""
    begins = f"goes on from {done:,} of {length:,}" if done else "begins anew: the run has no checkpoint yet"
    print(f"{begins}{'' if done < length else '; nothing is left to train'}", file=sys.stderr)
    for key, (old, new) in changed.items():
        print(f"{_told(key, (old, new))} (was {'null' if old is None else repr(old)})", file=sys.stderr)


def write_history(folder: Path, changed: Changes, step: int) -> None:
    """Adds an entry to the run's list of changes: when, at which step, and each key's old and new value.

    Raises:
        StorageError: the list cannot be read or written.
    """
    path = folder / HISTORY
    try:
        history = plain(read_yaml(read_bounded(path))) if path.exists() else []
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise StorageError(f"{path}: cannot be read: {error}; move it away to go on without it") from error
    if not isinstance(history, list):
        raise StorageError(f"{path}: must be a list; move it away to go on without it")
    values = {key: {"from": old, "to": new} for key, (old, new) in changed.items()}
    entry = {"time": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "step": step, "changes": values}
    write_atomically(path, to_yaml_text([*history, entry][-MAX_ENTRIES:]).encode())


def _is_under(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in prefixes)


def _told(key: str, change: tuple[Any, Any]) -> str:
    return f"{key} = {change[1]!r}" if change[1] is not None else f"{key} = null"


def _reason(key: str) -> str:
    if key == "run_dir":
        return "a run stays in its folder; move that folder instead"
    if key == "seed":
        return "a resumed training goes on with the random numbers of its checkpoint; train anew for another seed"
    return (
        "is what the run's weights were made with and cannot change on a resume; train anew, where "
        "policy.init_from=RUN begins with this run's core. Valid on a resume are total_timesteps, total_sequences, "
        "n_envs, device and the keys of ppo, optimizer, checkpoint and tracking (`ntm-rl show --keys` lists them)"
    )
