"""Error messages for invalid configs."""

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

# Keys of other tools, and their replacements.
_SECTIONS = {
    "env": "; write env.id=ID, and env.kwargs.NAME=VALUE for its arguments",
    "task": "; write task.name=NAME",
    "policy": "; the policy follows from the observation space; core=NAME chooses the memory core",
    "memory": "; write core=NAME, and memory.NAME.KEY=VALUE for its options",
}
_RENAMED = {
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
    "policy_kwargs": "policy, core and memory",
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
_OTHER_TOOLS = {
    "algo": "the algorithm is always MemoryPPO; core=NAME chooses the memory core",
    "eval_freq": "the best agent is selected by its return in training; `ntm-rl evaluate RUN --best` evaluates it",
    "eval_episodes": "the best agent is selected by its return in training; `ntm-rl evaluate RUN --best` evaluates it",
    "hyperparams": "write each one as key=value, such as ppo.learning_rate=1e-4",
    "capture_video": "`ntm-rl record RUN` records videos",
    "trained_agent": "use `ntm-rl resume RUN` to continue, or policy.init_from=RUN to start from its memory core",
    "verbose": "not supported; leave it out",
    "defaults": "configs cannot be composed; `ntm-rl copy CONFIG FILE` makes a copy to edit",
}
MAX_SHOWN = 100  # characters of a value in a message
MAX_SUGGESTED = 2
SCHEDULES = ("lin_", "linear_", "log_", "cos_")  # prefixes in RL Zoo configs


class ConfigError(InputError):
    """All errors of a config, one per line."""


def explain(
    error: ValidationError, data: Mapping[str, Any], schema: type[BaseModel], name: str, overridden: Sequence[str]
) -> Iterator[str]:
    """Yields a line for every invalid key, with its source, its value and the valid values.

    Args:
        error: The errors that pydantic found.
        data: The config.
        schema: Its schema.
        name: Name of the file.
        overridden: Dotted keys that came from the command line.
    """
    problems: dict[tuple[str, ...], list[Any]] = {}
    for problem in error.errors():  # one for each member of a union
        problems.setdefault(_path(problem["loc"], data, problem["type"]), []).append(problem)
    for path, (first, *others) in problems.items():
        names = [each["ctx"]["expected"].replace("'", "") for each in others if each["type"] == "literal_error"]
        explanation = _explain(first, path, schema, "".join(f", or {each}" for each in names))
        yield f"{place('.'.join(path), name, overridden)}: {explanation}"


def place(key: str, name: str, overridden: Sequence[str]) -> str:
    """Returns the source of a dotted key, or of a part of it: "command line" or the name of the file."""
    is_override = any(f"{key}.".startswith(f"{each}.") or f"{each}.".startswith(f"{key}.") for each in overridden)
    return "command line" if is_override else name


def _explain(problem: Any, path: Sequence[str], schema: type[BaseModel], or_names: str) -> str:
    key, kind = ".".join(path), problem["type"]
    if kind == "missing":
        return f"{key}: missing{', such as env: {id: CartPole-v1}' if key == 'env' else ''}"
    value = _show(problem["input"])
    if kind == "extra_forbidden":
        return f"{key} = {value}: unknown key.{_suggest(path, schema)}"
    if kind in _MUST_BE:
        return f"{key} = {value}: must be {_MUST_BE[kind]}{or_names}{_advice(path, problem['input'])}"
    if kind == "string_pattern_mismatch" and path[-1] == "device":
        return f"{key} = {value}: must be auto, cpu, cuda, cuda:N or mps"
    if kind == "value_error":
        return f"{key} = {value}: {problem['ctx']['error']}"
    if kind == "literal_error":
        valid = problem["ctx"]["expected"]
        names = [each.strip("'") for each in valid.replace(" or ", ", ").split(", ")]
        return f"{key} = {value}: must be {valid}.{did_you_mean(str(problem['input']), names)}"
    return f"{key} = {value}: {problem['msg'].replace('Input should', 'must').replace('String should', 'must')}"


def _path(location: tuple[int | str, ...], data: Any, kind: str) -> tuple[str, ...]:
    """Returns the keys of an error's location; for an element of a list, those of the list."""
    path: list[str] = []
    for part in location:
        if isinstance(data, Mapping) and (part in data or kind == "missing"):
            path.append(str(part))
            data = data.get(part)
    return tuple(path)


def _advice(path: Sequence[str], value: Any) -> str:
    """Returns the replacement of a value that other tools accept."""
    if isinstance(value, str) and value.startswith(SCHEDULES):
        if path[-1] != "learning_rate":
            return "; only the learning rate has a schedule"
        number, key = value.partition("_")[2], ".".join(path)
        return f"; for linear decay write {key}={number or '3e-4'} {key}_schedule=linear"
    if path[-1] == "net_arch":
        return ", such as {pi: [64, 64], vf: [64, 64]}, or a list for both"
    if len(path) == 1:
        advice = _SECTIONS.get(path[0])
        if advice:
            return advice
    return "; an empty value is null: leave it out for the default" if value is None else ""


def _suggest(path: Sequence[str], schema: type[BaseModel]) -> str:
    advice = _advice_on_key(path, schema)
    if advice:
        return advice
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
    return f" Valid keys are {', '.join(section.model_fields)}."


def _advice_on_key(path: Sequence[str], schema: type[BaseModel]) -> str:
    """Returns advice on a top-level key of another tool, or a dotted key in a file."""
    if len(path) > 1:
        return ""
    word = path[0].lower().replace("-", "_")
    if word in _OTHER_TOOLS:
        return f" {_OTHER_TOOLS[word][0].upper()}{_OTHER_TOOLS[word][1:]}."
    if word in ("env", "task") and word not in schema.model_fields:
        return " A config has either env (reinforcement learning) or task (supervised training)."
    if word in _RENAMED and (_RENAMED[word] in _keys(schema) or " " in _RENAMED[word]):
        return f" Did you mean {_RENAMED[word]}?"
    section, dot, rest = path[0].partition(".")
    return f" In a file, write {section}: {{{rest}: ...}}." if dot and section in schema.model_fields else ""


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
