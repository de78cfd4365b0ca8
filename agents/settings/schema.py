"""The schema of configs: sections, keys, types, defaults and descriptions."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from ntm_rl.agents.policy.arguments import Activation, Critic
from ntm_rl.agents.policy.image_extractor import Architecture, Precision
from ntm_rl.agents.settings.core_modules import check_core, import_core, split_core
from ntm_rl.agents.settings.environment_variables import WandbMode
from ntm_rl.agents.settings.kinds import PPO, SUPERVISED, TrainingKind
from ntm_rl.agents.settings.paths import OptionalPathText, PathText, user_path
from ntm_rl.cores.registry import core_class, core_names, is_built_in
from ntm_rl.envs.algorithmic.curriculum import CurriculumKind
from ntm_rl.envs.algorithmic.registry import TASKS, make_task
from ntm_rl.envs.algorithmic.task import AlgorithmicTask
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.modules import folder_of, split

MAX_LAYERS = 1000
MAX_SIZE = 2**24
MAX_ENVS = 2**16
UserModules = tuple[tuple[str | None, str | None], ...]  # names and folders

LearningRateSchedule = Literal["constant", "linear"]


class Section(BaseModel):
    """A section of a config; unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _check_layer_sizes(sizes: list[int]) -> list[int]:
    if len(sizes) > MAX_LAYERS:
        raise ValueError(f"must have at most {MAX_LAYERS} layers")
    for size in sizes:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"must be sizes from 1 to {MAX_SIZE}, not {size}")
    return sizes


LayerSizes = Annotated[list[int], AfterValidator(_check_layer_sizes)]


class NetArchSettings(Section):
    """Layer sizes after the core; a list applies to actor and critic, as in SB3."""

    pi: LayerSizes = Field([64], description="Layer sizes of the actor.")
    vf: LayerSizes = Field([64], description="Layer sizes of the critic.")

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"pi": value, "vf": value} if isinstance(value, list) else value


class PolicySettings(Section):
    """The networks around the memory core."""

    critic: Critic = Field(
        "shared",
        description="shared: one core for actor and critic; detached: the same, but the value loss does not train it; "
        "separate: one core each.",
    )
    net_arch: NetArchSettings = Field(NetArchSettings(), description="Layers after the core.")
    activation: Activation = Field("Tanh", description="Activation function of these layers.")
    ortho_init: bool = Field(True, description="Orthogonal initialisation of these layers.")
    extractor: Architecture = Field(
        "auto",
        description="Image features: the Nature CNN, IMPALA's ResNet, or auto (the Nature CNN, and IMPALA's ResNet for "
        "images below 36 x 36).",
    )
    precision: Precision = Field(
        "auto", description="Precision of the convolutions; auto: bfloat16 where the device supports it."
    )
    init_from: OptionalPathText = Field(
        None, description="Run directory to initialise the memory core from, and the output layer if its shape fits."
    )


class PpoSettings(Section):
    """Hyperparameters of MemoryPPO, with SB3's names."""

    learning_rate: float = Field(3e-4, gt=0, description="Learning rate of Adam.")
    learning_rate_schedule: LearningRateSchedule = Field(
        "constant", description="Constant learning rate, or linear decay to 0."
    )
    adam_epsilon: float = Field(
        1e-5, gt=0, description="Epsilon of Adam; weights with gradients far below it hardly change."
    )
    n_steps: int = Field(128, ge=1, le=MAX_SIZE, description="Steps per environment in a rollout.")
    sequence_length: int | None = Field(
        None, ge=1, description="Steps of backpropagation through time, a divisor of n_steps; null: n_steps."
    )
    batch_size: int = Field(1024, ge=1, description="Transitions per minibatch, a multiple of sequence_length.")
    n_epochs: int = Field(4, ge=1, description="Epochs per rollout.")
    gamma: float = Field(0.99, ge=0, le=1, description="Discount factor.")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="Lambda of generalised advantage estimation (GAE).")
    clip_range: float = Field(0.2, gt=0, description="Clipping range of the probability ratio.")
    clip_range_vf: float | None = Field(
        None, gt=0, description="Clipping range of the value function; null: no clipping."
    )
    normalize_advantage: bool = Field(True, description="Normalise the advantages of each minibatch.")
    ent_coef: float = Field(0.0, ge=0, description="Coefficient of the entropy bonus.")
    vf_coef: float = Field(0.5, ge=0, description="Coefficient of the value loss.")
    max_grad_norm: float = Field(0.5, gt=0, description="Maximum norm of the gradient.")
    target_kl: float | None = Field(
        None, gt=0, description="Approximate KL divergence at which an update stops early; null: no limit."
    )
    use_sde: bool = Field(False, description="Use state-dependent exploration (gSDE); Box actions only.")
    sde_sample_freq: int = Field(
        -1, ge=-1, description="Steps between samples of the gSDE noise matrix; -1: once per rollout."
    )
    recompute_states: bool = Field(
        False, description="Recompute the memory state at the start of each sequence before every epoch."
    )
    stats_window_size: int = Field(100, ge=1, description="Episodes in the logged mean return.")


class OptimizerSettings(Section):
    """The optimizer of a supervised training."""

    name: Literal["rmsprop", "adam", "sgd"] = Field(
        "rmsprop", description="RMSprop of Graves (2013, eqs. 38-41), Adam, or SGD."
    )
    learning_rate: float = Field(1e-4, gt=0, description="Learning rate.")
    learning_rate_schedule: LearningRateSchedule = Field(
        "constant", description="Constant learning rate, or linear decay to 0."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of rmsprop and sgd.")
    l2: float = Field(0.0, ge=0, description="L2 penalty: coefficient of half the sum of squared weights in the loss.")
    weighting_entropy: float = Field(
        0.0,
        ge=0,
        description="Weight in the loss of the mean entropy of the core's weightings, in bits, at some steps.",
    )
    clip_norm: float | None = Field(10.0, gt=0, description="Maximum norm of the gradient; null: no clipping.")
    clip_value: float | None = Field(
        None, gt=0, description="Maximum absolute value of a gradient's elements; null: no clipping."
    )
    averaging: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights, which is validated and saved; 0: no averaging.",
    )


class ValidationSettings(Section):
    """Validation of a supervised training on fresh sequences."""

    every: int = Field(1000, ge=1, description="Training sequences between validations.")
    sequences: int = Field(
        128, ge=1, le=MAX_SIZE, description="Sequences per validation, with difficulties drawn as in training."
    )
    longer: list[dict[str, int]] = Field(
        [], description="Additional difficulties, such as {length: 120}, measured at every tenth validation."
    )


class CheckpointSettings(Section):
    """Checkpoints of a training."""

    every: int = Field(100_000, ge=1, description="Environment steps, or sequences, between checkpoints.")
    keep: int = Field(3, ge=1, description="Number of checkpoints to keep.")


class TrackingSettings(Section):
    """Project, group and tags of a run in Weights & Biases."""

    project: str = Field("ntm-rl", description="W&B project.")
    entity: str | None = Field(None, description="W&B user or team; null: your default.")
    group: str | None = Field(None, description="W&B group.")
    tags: list[str] = Field([], description="W&B tags.")


def _section(name: str, source: Any, defaults: Mapping[str, Any]) -> type[BaseModel]:
    """Makes a section from annotations `Annotated[type, "description"]`."""
    hints = get_type_hints(source, include_extras=True)
    fields: dict[str, Any] = {
        key: (
            _without_description(hints[key]),
            Field(default, description=hints[key].__metadata__[0], le=_upper_bound(key, hints[key].__origin__)),
        )
        for key, default in defaults.items()
    }
    return create_model(name, __base__=Section, **fields)


def _upper_bound(key: str, kind: Any) -> int | None:
    """Returns the upper bound of an integer: a hostile value must fail before anything of that size is built."""
    return None if kind is not int else MAX_LAYERS if key == "layers" else MAX_SIZE


def _without_description(hint: Any) -> Any:
    """Returns an annotation without its description; validators after it, such as that of `PathText`, remain."""
    checks = hint.__metadata__[1:]
    return Annotated[hint.__origin__, *checks] if checks else hint.__origin__


def _options_of(name: str, constructor: Callable[..., Any]) -> type[BaseModel]:
    """Makes a section from a constructor's keyword-only arguments."""
    parameters = inspect.signature(constructor).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    return _section(f"{name.capitalize()}Settings", constructor, options)


class TrainingSettings(Section):
    """Settings of every kind of training; frequently changed keys are at the top level."""

    kind: ClassVar[TrainingKind]

    core: Annotated[str, AfterValidator(check_core)] = Field(
        "ntm",
        description="The memory core; `ntm-rl list cores` lists them; `module:name` is a core that a module registers.",
    )
    core_path: OptionalPathText = Field(
        None, description="Folder of the module of `module:name`; null: it is installed, or `train` runs in its folder."
    )
    memory: Any
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed.")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="Device: auto, cpu, cuda, cuda:N or mps."
    )
    threads: int | None = Field(
        1, ge=1, description="Threads of torch; small recurrent networks are fastest with one; null: torch's default."
    )
    run_dir: PathText = Field("runs", description="Parent folder of the run directory.")
    wandb: WandbMode | None = Field(
        None, description="Mode of Weights & Biases; null: online if a login exists, else offline."
    )
    tracking: TrackingSettings = Field(
        TrackingSettings(), description="Project, group and tags of the run in Weights & Biases."
    )
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="Checkpoints of the training.")
    on_nonfinite: Literal["stop", "rollback"] = Field(
        "stop",
        description="On a non-finite loss or gradient: stop, or return to the last checkpoint and halve the learning "
        "rate.",
    )
    max_rollbacks: int = Field(3, ge=1, description="Maximum number of rollbacks of a run.")

    @property
    def core_kwargs(self) -> dict[str, Any]:
        """The options of the chosen core."""
        options = getattr(self.memory, self.core_name)
        return dict(options) if isinstance(options, Mapping) else options.model_dump()

    @property
    def core_name(self) -> str:
        """The name under which the chosen core is registered."""
        return split_core(self.core)[1]

    def import_core(self) -> None:
        """Imports the module of `core = module:name`, which runs its code; raises as `core_modules.import_core`."""
        import_core(self.core, self.core_path, self.core_kwargs)

    @property
    def total_steps(self) -> int:
        """Length of the training, in steps of its kind."""
        steps: int = getattr(self, self.kind.length_key)
        return steps

    @property
    def user_modules(self) -> UserModules:
        """Modules and folders that the training imports besides installed packages."""
        return _user_modules(split_core(self.core)[0], self.core_path)

    def resolved(self) -> Self:
        """Returns the settings with absolute paths; a module that only the current folder has gets that folder."""
        path = _folder("core_path", self.core_path, split_core(self.core)[0])
        return self.model_copy(update={"core_path": path})


class PpoTrainingSettings(TrainingSettings):
    """A training of an agent by PPO."""

    kind: ClassVar[TrainingKind] = PPO

    env: Any
    policy: PolicySettings = Field(PolicySettings(), description="Networks around the core.")
    ppo: PpoSettings = Field(PpoSettings(), description="Hyperparameters of PPO.")
    n_envs: int = Field(32, ge=1, le=MAX_ENVS, description="Number of sub-environments.")
    total_timesteps: int = Field(1_000_000, ge=1, description="Total environment steps.")

    @property
    def env_settings(self) -> EnvSettings:
        """The section `env` as `EnvSettings`."""
        return EnvSettings(**self.env.model_dump())

    @property
    def user_modules(self) -> UserModules:
        """See `TrainingSettings.user_modules`."""
        module, colon, _ = self.env.id.partition(":")
        return *_user_modules(module if colon else None, self.env.path), *super().user_modules

    def resolved(self) -> Self:
        """See `TrainingSettings.resolved`."""
        path = _folder("env.path", self.env.path, split(self.env.id)[0])
        settings = super().resolved()
        return settings.model_copy(update={"env": self.env.model_copy(update={"path": path})})


class SupervisedTrainingSettings(TrainingSettings):
    """A supervised training on an algorithmic task."""

    kind: ClassVar[TrainingKind] = SUPERVISED

    task: Any
    curriculum: CurriculumKind = Field(
        "uniform", description="Difficulties uniform in the task's ranges, or (lookahead) from easy to hard."
    )
    biased_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of the training sequences whose bits are 1 with a random probability instead of 1/2, so "
        "that nearly empty and nearly full vectors are common; validation has none.",
    )
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="Optimizer.")
    validation: ValidationSettings = Field(ValidationSettings(), description="Validation on fresh sequences.")
    batch_size: int = Field(1, ge=1, le=MAX_SIZE, description="Sequences per update, all of the same difficulty.")
    total_sequences: int = Field(100_000, ge=1, description="Total training sequences.")
    log_every: int = Field(1000, ge=1, description="Sequences between rows of the log.")

    def make_task(self) -> AlgorithmicTask:
        """Makes the chosen task."""
        return make_task(self.task.name, **getattr(self.task, self.task.name).model_dump())


def _user_modules(module: str | None, folder: str | None) -> UserModules:
    return () if module is None and folder is None else ((module, folder),)


def _folder(key: str, path: str | None, module: str | None) -> str | None:
    return folder_of(module) if path is None else str(user_path(key, path).absolute())


@cache
def ppo_schema(custom_core: str | None = None) -> type[PpoTrainingSettings]:
    """Returns the schema of a PPO training, with the sections that other packages' annotations describe."""
    env_defaults = {
        each.name: ... if each.default is dataclasses.MISSING and each.name == "id" else _default(each)
        for each in dataclasses.fields(EnvSettings)
    }
    env = _section("EnvSection", EnvSettings, env_defaults)
    return create_model(
        "PpoTrainingSettings",
        __base__=PpoTrainingSettings,
        env=(env, Field(description="The environment and how the agent sees it.")),
        memory=_memory(custom_core),
    )


@cache
def supervised_schema(custom_core: str | None = None) -> type[SupervisedTrainingSettings]:
    """Returns the schema of a supervised training, with the sections that other packages' annotations describe."""
    options = {name: _options_of(name, kind.__init__) for name, kind in TASKS.items()}
    tasks: dict[str, Any] = {
        name: (schema, Field(schema(), description=f"Options of the task {name!r}."))
        for name, schema in options.items()
    }
    tasks["name"] = (Literal[tuple(TASKS)], Field(description="Name of the task."))
    with _shadowing():
        task = create_model("TaskSection", __base__=Section, **tasks)
    return create_model(
        "SupervisedTrainingSettings",
        __base__=SupervisedTrainingSettings,
        task=(task, Field(description="The task, and the options of each.")),
        memory=_memory(custom_core),
    )


def _memory(custom_core: str | None) -> Any:
    """Returns the field `memory`: the options of every core of this package and of the custom core."""
    options = {name: _options_of(name, core_class(name).__init__) for name in core_names() if is_built_in(name)}
    cores: dict[str, Any] = {
        name: (schema, Field(schema(), description=f"Options of the core {name!r}."))
        for name, schema in options.items()
    }
    if custom_core is not None:  # not typed: its module is imported later
        cores[custom_core] = (dict[str, Any], Field({}, description=f"Options of the core {custom_core!r}."))
    with _shadowing():
        memory = create_model("MemorySettings", __base__=Section, **cores)
    return memory, Field(memory(), description="The options of each core.")


@contextmanager
def _shadowing() -> Iterator[None]:
    """Allows tasks and cores with the name of a pydantic method, such as `copy`, which no section needs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        yield


def _default(each: "dataclasses.Field[Any]") -> Any:
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
