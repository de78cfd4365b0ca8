"""Settings that change when a run is resumed, and the record of them in the run's folder."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ntm_rl.agents.settings.kinds import TrainingKind
from ntm_rl.agents.settings.yaml_text import YamlError, plain, read_bounded, read_yaml, to_yaml_text
from ntm_rl.agents.storage.files import StorageError, write_atomically
from ntm_rl.errors import InputError

HISTORY = "config.history.yaml"
# Settings that determine the weights, the random numbers or the folder of a run.
FIXED = ("core", "memory", "seed", "run_dir", "policy", "optimizer.name", "task.name")
FREE = ("policy.precision",)
MAX_ENTRIES = 200  # in the history
Changes = Mapping[str, tuple[Any, Any]]


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the dotted keys in which two configurations differ, with the old and the new value."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= find_changes(before, after, f"{prefix}{key}.")
        elif before != after:
            found[f"{prefix}{key}"] = before, after
    return found


def refuse_fixed(changes: Changes) -> None:
    """Raises an `InputError` with a line for each change that can have no effect on a resumed training."""
    fixed = [key for key in changes if _is_under(key, FIXED) and not _is_under(key, FREE)]
    if fixed:
        raise InputError("\n".join(f"{_assignment(key, changes[key])}: {_reason(key)}" for key in fixed))


@contextmanager
def explain_mismatch(changes: Changes) -> Iterator[None]:
    """Adds the changed settings to the error of a checkpoint that does not fit them."""
    try:
        yield
    except StorageError as error:
        if not changes:
            raise
        assignments = ", ".join(_assignment(key, change) for key, change in changes.items())
        raise InputError(f"{assignments}: the run's checkpoint does not fit ({error}); leave it out") from error


def refuse_reached_length(changes: Changes, kind: TrainingKind, steps: int) -> None:
    """Raises an `InputError` for a new length that the training has already reached."""
    change = changes.get(kind.length_key)
    if change is not None and change[1] <= steps:
        raise InputError(f"{_assignment(kind.length_key, change)}: must be more than the {steps:,} of the run so far")


def print_changes(changes: Changes, steps: int, total: int) -> None:
    """Prints to standard error where a training resumes and which settings differ from the run's config."""
    start = f"resumes at {steps:,} of {total:,}" if steps else "starts again: the run has no checkpoint yet"
    print(f"{start}{'' if steps < total else '; nothing is left to train'}", file=sys.stderr)
    for key, change in changes.items():
        print(f"{_assignment(key, change)} (was {_value(change[0])})", file=sys.stderr)


def write_history(folder: Path, changes: Changes, step: int) -> None:
    """Adds an entry to the run's list of changes: time, step, and the old and new value of each key.

    Raises:
        StorageError: the list cannot be read or written.
    """
    path = folder / HISTORY
    try:
        history = plain(read_yaml(read_bounded(path))) if path.exists() else []
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise StorageError(f"{path}: cannot be read: {error}; move it away to resume without it") from error
    if not isinstance(history, list):
        raise StorageError(f"{path}: must be a list; move it away to resume without it")
    values = {key: {"from": old, "to": new} for key, (old, new) in changes.items()}
    entry = {"time": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "step": step, "changes": values}
    write_atomically(path, to_yaml_text([*history, entry][-MAX_ENTRIES:]).encode())


def _is_under(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in prefixes)


def _assignment(key: str, change: tuple[Any, Any]) -> str:
    return f"{key} = {_value(change[1])}"


def _value(value: Any) -> str:
    return "null" if value is None else repr(value)


def _reason(key: str) -> str:
    if key == "run_dir":
        return "a run stays in its folder; move that folder instead"
    if key == "seed":
        return "a resumed training uses the random states of its checkpoint; start a new training for another seed"
    return (
        "the run's weights were made with the old value; start a new training, where policy.init_from=RUN takes over "
        "this run's core. Valid on a resume are total_timesteps, total_sequences, n_envs, device and the keys of ppo, "
        "optimizer, checkpoint and tracking (`ntm-rl show --keys` lists them)"
    )
