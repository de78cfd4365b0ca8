"""What pydantic finds wrong with a configuration, in words that help its author."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ntm_rl.errors import InputError, did_you_mean

_MUST_BE = {
    "int_type": "an integer, such as 1000000 or 1e6",
    "int_from_float": "an integer, such as 1000000 or 1e6",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list, such as [a, b]",
    "dict_type": "a mapping, such as {a: 1}",
    "string_unicode": "Unicode text",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

# From the words of other tools to ours.
_WAYS = {
    "env": "; write env.id=ID, and env.kwargs.NAME=VALUE for what is passed to it",
    "task": "; write task.name=NAME",
    "policy": "; core=lstm or another chooses the memory, and the kind of policy follows from the observations",
    "memory": "; write core=NAME, and memory.NAME.KEY=VALUE for its options",
}
_MEANT = {
    "env_id": "env.id",
    "env_name": "env.id",
    "env_kwargs": "env.kwargs",
    "gym_id": "env.id",
    "num_envs": "n_envs",
    "n_timesteps": "total_timesteps",
    "timesteps": "total_timesteps",
    "num_steps": "ppo.n_steps",
    "normalize": "env.normalize_observation and env.normalize_reward",
    "anneal_lr": "ppo.learning_rate_schedule",
    "lr": "ppo.learning_rate",
    "policy_kwargs": "the keys of policy, core and those of memory",
    "num_threads": "threads",
    "log_folder": "run_dir",
    "tensorboard_log": "run_dir",
    "save_freq": "checkpoint.every",
    "exp_name": "tracking.group or run_dir",
    "wandb_project_name": "tracking.project",
    "wandb_entity": "tracking.entity",
    "wandb_mode": "wandb",
    "track": "wandb",
}
_NOT_OURS = {
    "algo": "there is one, MemoryPPO; core=NAME chooses the memory",
    "eval_freq": "the best agent is kept by its returns in training; `ntm-rl evaluate RUN` plays it",
    "eval_episodes": "the best agent is kept by its returns in training; `ntm-rl evaluate RUN` plays it",
    "hyperparams": "write each as key=value, such as ppo.learning_rate=1e-4",
    "capture_video": "`ntm-rl record RUN` makes films",
    "trained_agent": "`ntm-rl resume RUN` trains on; policy.init_from=RUN begins with its core",
    "verbose": "leave it out",
    "defaults": "configs are not composed; `ntm-rl copy CONFIG FILE` makes one of your own",
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
        yield f"{place(key, name, overridden)}: {_explain(problem, path, schema)}"


def place(key: str, name: str, overridden: Sequence[str]) -> str:
    """Returns where a dotted key, or a part of it, was given: on the command line, or in the file of that name."""
    was_typed = any(f"{key}.".startswith(f"{each}.") or f"{each}.".startswith(f"{key}.") for each in overridden)
    return "command line" if was_typed else name


def _explain(problem: Any, path: list[str], schema: type[BaseModel]) -> str:
    key, kind = ".".join(path), problem["type"]
    if kind == "missing":
        return f"{key}: missing{', such as env: {id: CartPole-v1}' if key == 'env' else ''}"
    value = _show(problem["input"])
    if kind == "extra_forbidden":
        return f"{key} = {value}: unknown key.{_suggest(path, schema)}"
    if kind in _MUST_BE:
        return f"{key} = {value}: must be {_MUST_BE[kind]}{_way_out(path, problem['input'])}"
    if kind == "string_pattern_mismatch" and path[-1] == "device":
        return f"{key} = {value}: must be auto, cpu, cuda, cuda:N or mps"
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
    if len(path) == 1:
        return _WAYS.get(path[0], "")
    return ""


def _suggest(path: list[str], schema: type[BaseModel]) -> str:
    meant = _foreign(path, schema)
    if meant:
        return meant
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


def _foreign(path: list[str], schema: type[BaseModel]) -> str:
    """Returns what is meant by a key at the top that other tools have, or that is written as here on a command line."""
    if len(path) > 1:
        return ""
    word = path[0].lower().replace("-", "_")
    if word in _NOT_OURS:
        return f" {_NOT_OURS[word][0].upper()}{_NOT_OURS[word][1:]}."
    if word in ("env", "task") and word not in schema.model_fields:
        return " A config has either env, for reinforcement learning, or task, for supervised training."
    if word in _MEANT and (_MEANT[word] in _keys(schema) or " " in _MEANT[word]):
        return f" Did you mean {_MEANT[word]}?"
    section, dot, rest = path[0].partition(".")
    return f" In a file it is nested: {section}: {{{rest}: ...}}." if dot and section in schema.model_fields else ""


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
