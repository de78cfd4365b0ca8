"""The configuration of a training as a schema: sections, keys, types, defaults and meanings."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from ntm_rl.agents.settings.paths import OptionalPathText, PathText
from ntm_rl.cores.registry import core_class, core_names
from ntm_rl.envs.algorithmic.curriculum import CurriculumKind
from ntm_rl.envs.algorithmic.registry import TASKS, make_task
from ntm_rl.envs.algorithmic.task import AlgorithmicTask
from ntm_rl.envs.factory import EnvSettings

MAX_LAYERS = 1000
MAX_SIZE = 2**24
MAX_ENVS = 2**16


class Section(BaseModel):
    """A part of a configuration: unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _possible(sizes: list[int]) -> list[int]:
    if len(sizes) > MAX_LAYERS:
        raise ValueError(f"must be at most {MAX_LAYERS} layers")
    for size in sizes:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"must be sizes from 1 to {MAX_SIZE}; {size} is none")
    return sizes


LayerSizes = Annotated[list[int], AfterValidator(_possible)]


class NetArchSettings(Section):
    """Sizes of the layers behind the core; a list is for actor and critic alike, as in SB3."""

    pi: LayerSizes = Field([64], description="Layers of the actor.")
    vf: LayerSizes = Field([64], description="Layers of the critic.")

    @model_validator(mode="before")
    @classmethod
    def _of_both(cls, value: Any) -> Any:
        return {"pi": value, "vf": value} if isinstance(value, list) else value


class PolicySettings(Section):
    """The networks around the memory core."""

    critic: Literal["shared", "detached", "separate"] = Field(
        "shared", description="One core for both, one core that the value loss does not train, or one each."
    )
    net_arch: NetArchSettings = Field(NetArchSettings(), description="Layers behind the core.")
    activation: Literal["Tanh", "ReLU", "ELU", "GELU", "SiLU", "LeakyReLU"] = Field(
        "Tanh", description="Activation of these layers."
    )
    ortho_init: bool = Field(True, description="Orthogonal initialisation of these layers.")
    extractor: Literal["auto", "nature", "impala"] = Field(
        "auto", description="What reads images: the Nature CNN, IMPALA's ResNet, or IMPALA's for those below 36 x 36."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Of its convolutions; auto: bfloat16 where the device computes in it."
    )
    init_from: OptionalPathText = Field(
        None, description="Folder of a run whose memory core, and output layer if it fits, the training begins with."
    )


class PpoSettings(Section):
    """Hyperparameters of MemoryPPO, with SB3's names."""

    learning_rate: float = Field(3e-4, gt=0, description="Step size of Adam.")
    learning_rate_schedule: Literal["constant", "linear"] = Field(
        "constant", description="Keep the learning rate, or let it fall linearly to 0."
    )
    adam_epsilon: float = Field(
        1e-5, gt=0, description="Epsilon of Adam; weights whose gradients stay far below it hardly move."
    )
    n_steps: int = Field(128, ge=1, le=MAX_SIZE, description="Steps of each environment in a rollout.")
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


class OptimizerSettings(Section):
    """The optimizer of a supervised training."""

    name: Literal["rmsprop", "adam", "sgd"] = Field(
        "rmsprop", description="Graves's RMSprop (2013, eqs. 38-41), Adam, or stochastic gradient descent."
    )
    learning_rate: float = Field(1e-4, gt=0, description="Step size.")
    learning_rate_schedule: Literal["constant", "linear"] = Field(
        "constant", description="Keep the learning rate, or let it fall linearly to 0."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of rmsprop and sgd.")
    l2: float = Field(0.0, ge=0, description="Weight of the squared weights' half sum in the loss.")
    weighting_entropy: float = Field(
        0.0,
        ge=0,
        description="Weight in the loss of the mean entropy of an NTM's weightings, in bits, at some steps; other "
        "cores have none.",
    )
    clip_norm: float | None = Field(10.0, gt=0, description="Largest norm of a gradient; null: none.")
    clip_value: float | None = Field(None, gt=0, description="Largest element of a gradient; null: none.")
    averaging: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights, which is what is validated and kept; 0: the last alone.",
    )


class ValidationSettings(Section):
    """What a supervised training measures on fresh sequences."""

    every: int = Field(1000, ge=1, description="Sequences of the training between two validations.")
    sequences: int = Field(
        128, ge=1, le=MAX_SIZE, description="Fresh sequences of each validation, of difficulties as in training."
    )
    longer: list[dict[str, int]] = Field(
        [], description="Further difficulties to validate on, such as {length: 120}; every tenth time."
    )


class CheckpointSettings(Section):
    """When a training is saved."""

    every: int = Field(100_000, ge=1, description="Environment steps, or sequences, between two checkpoints.")
    keep: int = Field(3, ge=1, description="Checkpoints to keep.")


class TrackingSettings(Section):
    """Where Weights & Biases puts a run."""

    project: str = Field("ntm-rl", description="W&B project.")
    entity: str | None = Field(None, description="W&B user or team; null: your default.")
    group: str | None = Field(None, description="W&B group.")
    tags: list[str] = Field([], description="W&B tags.")


def _schema(name: str, source: Any, defaults: Mapping[str, Any]) -> type[BaseModel]:
    """Makes a section of annotations `Annotated[type, "one sentence"]`, so that nothing is said twice."""
    hints = get_type_hints(source, include_extras=True)
    fields: dict[str, Any] = {
        key: (
            _without_sentence(hints[key]),
            Field(default, description=hints[key].__metadata__[0], le=_most(key, hints[key].__origin__)),
        )
        for key, default in defaults.items()
    }
    return create_model(name, __base__=Section, **fields)


def _most(key: str, kind: Any) -> int | None:
    """Returns the largest value that is not a mistake, or hostile: a larger one would be built first and fail then."""
    return None if kind is not int else MAX_LAYERS if key == "layers" else MAX_SIZE


def _without_sentence(hint: Any) -> Any:
    """Returns an annotation without its sentence; what stands behind that checks the value, such as `PathText`."""
    checks = hint.__metadata__[1:]
    return Annotated[hint.__origin__, *checks] if checks else hint.__origin__


def _options_of(name: str, constructor: Callable[..., Any]) -> type[BaseModel]:
    """Makes a section of a constructor's keyword-only arguments."""
    parameters = inspect.signature(constructor).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    return _schema(f"{name.capitalize()}Settings", constructor, options)


class TrainingSettings(Section):
    """What every kind of training is told; the keys that are changed most stand at the top."""

    core: str = Field("ntm", description="The memory core; `ntm-rl list cores` lists them.")
    memory: Any
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    threads: int | None = Field(
        1, ge=1, description="Threads of torch, of which small recurrent networks want one; null: torch decides."
    )
    run_dir: PathText = Field("runs", description="Folder under which the run's own folder is made.")
    wandb: Literal["online", "offline", "disabled"] | None = Field(
        None, description="Weights & Biases; null: online where a login exists, else offline."
    )
    tracking: TrackingSettings = Field(TrackingSettings(), description="Where Weights & Biases puts the run.")
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="When the training is saved.")
    on_nonfinite: Literal["stop", "rollback"] = Field(
        "stop",
        description="At a loss or gradient that is not finite: stop, or go back to the last checkpoint and on "
        "with half the learning rate.",
    )
    max_rollbacks: int = Field(3, ge=1, description="How often a run may go back.")

    @property
    def core_kwargs(self) -> dict[str, Any]:
        """The options of the chosen core."""
        options: dict[str, Any] = getattr(self.memory, self.core).model_dump()
        return options


class PpoTrainingSettings(TrainingSettings):
    """A training of an agent by PPO."""

    env: Any
    policy: PolicySettings = Field(PolicySettings(), description="The networks around the core.")
    ppo: PpoSettings = Field(PpoSettings(), description="Hyperparameters of the training.")
    n_envs: int = Field(32, ge=1, le=MAX_ENVS, description="Copies of the environment that are stepped together.")
    total_timesteps: int = Field(1_000_000, ge=1, description="Environment steps of the training.")

    @property
    def env_settings(self) -> EnvSettings:
        """The env section as the envs package takes it."""
        return EnvSettings(**self.env.model_dump())


class SupervisedTrainingSettings(TrainingSettings):
    """A training on the right answers of an algorithmic task."""

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
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="How the weights are changed.")
    validation: ValidationSettings = Field(ValidationSettings(), description="What is measured on fresh sequences.")
    batch_size: int = Field(1, ge=1, le=MAX_SIZE, description="Sequences in an update, all of one difficulty.")
    total_sequences: int = Field(100_000, ge=1, description="Sequences of the training.")
    log_every: int = Field(1000, ge=1, description="Sequences between two rows of metrics.")

    def make_task(self) -> AlgorithmicTask:
        """Makes the chosen task."""
        return make_task(self.task.name, **getattr(self.task, self.task.name).model_dump())


@cache
def ppo_schema() -> type[PpoTrainingSettings]:
    """Returns the schema of a PPO training, with the sections that other packages' annotations describe."""
    env_defaults = {
        each.name: ... if each.default is dataclasses.MISSING and each.name == "id" else _default(each)
        for each in dataclasses.fields(EnvSettings)
    }
    env = _schema("EnvSection", EnvSettings, env_defaults)
    return create_model(
        "PpoTrainingSettings",
        __base__=PpoTrainingSettings,
        env=(env, Field(description="The environment and how the agent sees it.")),
        memory=_memory(),
    )


@cache
def supervised_schema() -> type[SupervisedTrainingSettings]:
    """Returns the schema of a supervised training, with the sections that other packages' annotations describe."""
    options = {name: _options_of(name, kind.__init__) for name, kind in TASKS.items()}
    tasks: dict[str, Any] = {
        name: (schema, Field(schema(), description=f"Options of the task {name!r}."))
        for name, schema in options.items()
    }
    tasks["name"] = (Literal[tuple(TASKS)], Field(description="Which task."))
    with warnings.catch_warnings():
        # A task's name may be that of one of pydantic's methods (copy), which nobody calls on a section.
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        task = create_model("TaskSection", __base__=Section, **tasks)
    return create_model(
        "SupervisedTrainingSettings",
        __base__=SupervisedTrainingSettings,
        task=(task, Field(description="The task, and the options of each.")),
        memory=_memory(),
    )


def _memory() -> Any:
    """Returns the field `memory`: the options of every core."""
    options = {name: _options_of(name, core_class(name).__init__) for name in core_names()}
    cores: dict[str, Any] = {
        name: (schema, Field(schema(), description=f"Options of the core {name!r}."))
        for name, schema in options.items()
    }
    memory = create_model("MemorySettings", __base__=Section, **cores)
    return memory, Field(memory(), description="The options of each core.")


def _default(each: "dataclasses.Field[Any]") -> Any:
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
