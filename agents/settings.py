"""The configuration of a training: its schema, and how a file and overrides become checked settings."""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from yaml import YAMLError

from ntm_rl.agents.config_errors import ConfigError, explain
from ntm_rl.core import core_class, core_names, make_core
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.errors import InputError, did_you_mean


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class NetArchSettings(_Section):
    """Sizes of the layers behind the core."""

    pi: list[int] = Field([64], description="Layers of the actor.")
    vf: list[int] = Field([64], description="Layers of the critic.")


class PolicySettings(_Section):
    """The networks around the memory core."""

    critic: Literal["shared", "detached", "separate"] = Field(
        "shared", description="One core for both, one core that the value loss does not train, or one each."
    )
    net_arch: NetArchSettings = Field(NetArchSettings(), description="Layers behind the core.")
    activation: Literal["Tanh", "ReLU", "ELU", "GELU", "SiLU", "LeakyReLU"] = Field(
        "Tanh", description="Activation of these layers."
    )
    ortho_init: bool = Field(True, description="Orthogonal initialisation of these layers.")


class PpoSettings(_Section):
    """Hyperparameters of MemoryPPO, with SB3's names."""

    learning_rate: float = Field(3e-4, gt=0, description="Step size of Adam.")
    learning_rate_schedule: Literal["constant", "linear"] = Field(
        "constant", description="Keep the learning rate, or let it fall linearly to 0."
    )
    n_steps: int = Field(128, ge=1, description="Steps of each environment in a rollout.")
    sequence_length: int | None = Field(
        None, ge=1, description="Steps through which gradients flow; divides n_steps; null: all of n_steps."
    )
    batch_size: int = Field(1024, ge=1, description="Transitions in a minibatch, a multiple of sequence_length.")
    n_epochs: int = Field(4, ge=1, description="Passes over a rollout.")
    gamma: float = Field(0.99, ge=0, le=1, description="Discount.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Decay of the generalised advantage estimation.")
    clip_range: float = Field(0.2, gt=0, description="Clipping of the probability ratio.")
    clip_range_vf: float | None = Field(None, gt=0, description="Clipping of the value's change; null: none.")
    normalize_advantage: bool = Field(True, description="Normalise the advantages of a minibatch.")
    ent_coef: float = Field(0.0, ge=0, description="Weight of the entropy bonus.")
    vf_coef: float = Field(0.5, ge=0, description="Weight of the value loss.")
    max_grad_norm: float = Field(0.5, gt=0, description="Largest norm of a gradient.")
    target_kl: float | None = Field(None, gt=0, description="Divergence at which an update stops early; null: never.")
    use_sde: bool = Field(False, description="State-dependent exploration, for Box actions.")
    sde_sample_freq: int = Field(-1, ge=-1, description="Steps between new exploration matrices; -1: once a rollout.")
    recompute_states: bool = Field(False, description="Recompute the chunks' first memory states before every epoch.")
    stats_window_size: int = Field(100, ge=1, description="Episodes over which the mean return is taken.")


class CheckpointSettings(_Section):
    """When a training is saved."""

    every: int = Field(100_000, ge=1, description="Environment steps between two checkpoints.")
    keep: int = Field(3, ge=1, description="Checkpoints to keep.")


class TrackingSettings(_Section):
    """Where Weights & Biases puts a run."""

    project: str = Field("ntm-rl", description="W&B project.")
    entity: str | None = Field(None, description="W&B user or team; null: your default.")
    group: str | None = Field(None, description="W&B group.")
    tags: list[str] = Field([], description="W&B tags.")


def _schema(name: str, source: Any, defaults: Mapping[str, Any]) -> type[BaseModel]:
    """Makes a section of annotations `Annotated[type, "one sentence"]`, so that nothing is said twice."""
    hints = get_type_hints(source, include_extras=True)
    fields: dict[str, Any] = {
        key: (hints[key].__origin__, Field(default, description=hints[key].__metadata__[0]))
        for key, default in defaults.items()
    }
    return create_model(name, __base__=_Section, **fields)


def _core_schema(core: str) -> type[BaseModel]:
    constructor = core_class(core).__init__
    parameters = inspect.signature(constructor).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    return _schema(f"{core.capitalize()}Settings", constructor, options)


class Settings(_Section):
    """A training. Sections are nested; the keys that are changed most stand at the top."""

    env: Any
    core: str = Field("ntm", description="The memory core; `ntm-rl list cores` lists them.")
    memory: Any
    policy: PolicySettings = Field(PolicySettings(), description="The networks around the core.")
    ppo: PpoSettings = Field(PpoSettings(), description="Hyperparameters of the training.")
    n_envs: int = Field(32, ge=1, description="Copies of the environment that are stepped together.")
    total_timesteps: int = Field(1_000_000, ge=1, description="Environment steps of the training.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    threads: int | None = Field(
        1, ge=1, description="Threads of torch, of which small recurrent networks want one; null: torch decides."
    )
    run_dir: str = Field("runs", min_length=1, description="Folder under which the run's own folder is made.")
    wandb: Literal["online", "offline", "disabled"] | None = Field(
        None, description="Weights & Biases; null: online where a login exists, else offline."
    )
    tracking: TrackingSettings = Field(TrackingSettings(), description="Where Weights & Biases puts the run.")
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="When the training is saved.")

    @property
    def env_settings(self) -> EnvSettings:
        """The env section as the envs package takes it."""
        return EnvSettings(**self.env.model_dump())

    @property
    def core_kwargs(self) -> dict[str, Any]:
        """The options of the chosen core."""
        options: dict[str, Any] = getattr(self.memory, self.core).model_dump()
        return options


@cache
def settings_schema() -> type[Settings]:
    """Returns the whole schema, with the sections that other packages' annotations describe."""
    cores: dict[str, Any] = {}
    for name in core_names():
        schema = _core_schema(name)
        cores[name] = (schema, Field(schema(), description=f"Options of the core {name!r}."))
    memory = create_model("MemorySettings", __base__=_Section, **cores)
    env_defaults = {
        each.name: ... if each.default is dataclasses.MISSING and each.name == "id" else _default(each)
        for each in dataclasses.fields(EnvSettings)
    }
    env = _schema("EnvSection", EnvSettings, env_defaults)
    return create_model(
        "Settings",
        __base__=Settings,
        env=(env, Field(description="The environment and how the agent sees it.")),
        memory=(memory, Field(memory(), description="The options of each core.")),
    )


def _default(each: "dataclasses.Field[Any]") -> Any:
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()


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
        ConfigError: there is neither.
    """
    path = Path(config)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"config = {config!r}: cannot be read: {error}") from error
    names = config_names()
    if config not in names:
        hint = did_you_mean(config, names) or f" Packaged are {', '.join(names)}."
        raise ConfigError(f"config = {config!r}: no such file and no such packaged config.{hint}")
    return files("ntm_rl.configs").joinpath(f"{config}.yaml").read_text()


def load_settings(config: str, overrides: Iterable[str] = ()) -> Settings:
    """Reads a config, applies `key=value` overrides and checks the whole.

    Args:
        config: Path of a YAML file, or the name of a packaged config.
        overrides: Such as `ppo.learning_rate=1e-4`.

    Raises:
        ConfigError: all that is wrong, a line each.
    """
    overrides = list(overrides)
    for override in overrides:
        if "=" not in override.strip("="):
            raise ConfigError(f"command line: {override!r}: must be key=value, such as ppo.learning_rate=1e-4")
    name = config if Path(config).suffix else f"configs/{config}.yaml"
    try:
        base = OmegaConf.create(config_text(config))
        merged = OmegaConf.merge(base, OmegaConf.from_dotlist(overrides))
        # Interpolations stay the text that they are: nothing in a config is evaluated.
        data: Any = OmegaConf.to_container(merged, resolve=False)
    except (OmegaConfBaseException, YAMLError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise ConfigError(f"{name}: not a valid config: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: must be a mapping of keys to values")
    return check_settings(data, name, [override.partition("=")[0] for override in overrides])


def check_settings(data: Mapping[str, Any], name: str, overridden: Iterable[str] = ()) -> Settings:
    """Checks a configuration as a whole.

    Args:
        data: Nested keys and values.
        name: Of the file, for the errors.
        overridden: Dotted keys that came from the command line.

    Raises:
        ConfigError: all that is wrong, a line each.
    """
    schema = settings_schema()
    try:
        settings = schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, data, schema, name, list(overridden)))) from error
    problems = list(_contradictions(settings))
    if problems:
        raise ConfigError("\n".join(f"{name}: {problem}" for problem in problems))
    return settings


def _contradictions(settings: Settings) -> Iterable[str]:
    ppo = settings.ppo
    length = ppo.sequence_length or ppo.n_steps
    if ppo.n_steps % length:
        yield f"ppo.sequence_length = {length}: must divide ppo.n_steps = {ppo.n_steps}"
    elif ppo.batch_size % length:
        yield f"ppo.batch_size = {ppo.batch_size}: must be a multiple of ppo.sequence_length = {length}"
    if ppo.batch_size > ppo.n_steps * settings.n_envs:
        total = ppo.n_steps * settings.n_envs
        yield f"ppo.batch_size = {ppo.batch_size}: must be at most ppo.n_steps * n_envs = {total}"
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        yield f"device = {settings.device!r}: torch sees no CUDA device; use cpu or auto"
    if settings.core not in core_names():
        hint = did_you_mean(settings.core, core_names())
        yield f"core = {settings.core!r}: unknown core; valid are {', '.join(core_names())}.{hint}"
        return
    try:
        with torch.device("meta"):  # the core's own checks, at no cost
            make_core(settings.core, 1, **settings.core_kwargs)
    except InputError as error:
        yield f"memory.{settings.core}.{error}"


def to_yaml(settings: Settings) -> str:
    """Returns the resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(settings.model_dump()))


def describe_keys() -> list[tuple[str, str, str, str]]:
    """Returns of every key its dotted name, its type, its default and its sentence."""
    return list(_describe(settings_schema(), ""))


def _describe(schema: type[BaseModel], prefix: str) -> Iterable[tuple[str, str, str, str]]:
    for key, described in schema.model_fields.items():
        kind = described.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            yield from _describe(kind, f"{prefix}{key}.")
        else:
            default = "required" if described.is_required() else OmegaConf.to_yaml([described.default])[2:].strip()
            text = kind.__name__ if inspect.isclass(kind) else str(kind).replace("typing.", "")
            yield f"{prefix}{key}", text, default, described.description or ""
