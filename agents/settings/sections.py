"""The sections of a config: keys, types, defaults and descriptions."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ntm_rl.agents import defaults
from ntm_rl.agents.policy.arguments import Activation, Critic
from ntm_rl.agents.policy.image_extractor import Architecture, Precision
from ntm_rl.agents.settings.paths import OptionalPathText

MAX_LAYERS = 1000
MAX_SIZE = 2**24

ScheduleKind = Literal["constant", "linear"]
ScheduleTime = Literal["start", "end"]  # of a rollout
AutoSize = Annotated[int, Field(ge=1, le=MAX_SIZE)] | Literal["auto"]


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

    pi: LayerSizes = Field(defaults.NET_ARCH["pi"], description="Layer sizes of the actor.")
    vf: LayerSizes = Field(defaults.NET_ARCH["vf"], description="Layer sizes of the critic.")

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"pi": value, "vf": value} if isinstance(value, list) else value


class PolicySettings(Section):
    """The networks around the memory core."""

    critic: Critic = Field(
        defaults.CRITIC,
        description="shared: one core for actor and critic, the critic's gradient scaled down to at most a tenth of "
        "the actor's norm; joint: one core, trained by the sum of both losses, as in SB3; detached: one core, which "
        "the value loss does not train; separate: one core each.",
    )
    popart: bool = Field(
        defaults.POPART, description="Normalise the critic's targets by running statistics of the returns (PopArt)."
    )
    net_arch: NetArchSettings = Field(NetArchSettings(), description="Layers after the core.")
    activation: Activation = Field(defaults.ACTIVATION, description="Activation function of these layers.")
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

    learning_rate: float = Field(defaults.LEARNING_RATE, gt=0, description="Learning rate of Adam.")
    learning_rate_schedule: ScheduleKind = Field(
        defaults.LEARNING_RATE_SCHEDULE, description="Constant learning rate, or linear decay to 0."
    )
    adam_epsilon: float = Field(
        defaults.ADAM_EPSILON, gt=0, description="Epsilon of Adam; weights with gradients far below it hardly change."
    )
    n_steps: AutoSize = Field("auto", description="Steps per environment in a rollout; auto: sequence_length.")
    sequence_length: AutoSize | None = Field(
        "auto",
        description="Steps of backpropagation through time, a divisor of n_steps; auto: an episode if it has 128 to "
        "512 steps; null: n_steps.",
    )
    batch_size: AutoSize = Field(
        "auto",
        description="Transitions per minibatch, a multiple of sequence_length; auto: a quarter of the rollout.",
    )
    n_epochs: AutoSize = Field("auto", description="Epochs per rollout; auto: 4, with fewer than 8 environments 10.")
    gamma: float = Field(defaults.GAMMA, ge=0, le=1, description="Discount factor.")
    gae_lambda: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        defaults.GAE_LAMBDA,
        description="Lambda of generalised advantage estimation (GAE); auto: measured during the training from how "
        "late rewards follow the actions that they depend on.",
    )
    clip_range: float = Field(defaults.CLIP_RANGE, gt=0, description="Clipping range of the probability ratio.")
    clip_range_schedule: ScheduleKind = Field("constant", description="Constant clipping range, or linear decay to 0.")
    schedule_at: ScheduleTime = Field(
        "start", description="Evaluate schedules at the progress of a rollout's start, or of its end, as SB3 does."
    )
    clip_range_vf: float | None = Field(
        None, gt=0, description="Clipping range of the value function; null: no clipping."
    )
    normalize_advantage: bool = Field(
        defaults.NORMALIZE_ADVANTAGE, description="Normalise the advantages of each minibatch."
    )
    ent_coef: float = Field(defaults.ENT_COEF, ge=0, description="Coefficient of the entropy bonus.")
    vf_coef: float = Field(
        defaults.VF_COEF,
        ge=0,
        description="Coefficient of the value loss; with popart, in units of the returns' variance.",
    )
    max_grad_norm: float = Field(defaults.MAX_GRAD_NORM, gt=0, description="Maximum norm of the gradient.")
    target_kl: float | None = Field(
        None, gt=0, description="Approximate KL divergence at which an update stops early; null: no limit."
    )
    use_sde: bool = Field(False, description="Use state-dependent exploration (gSDE); Box actions only.")
    sde_sample_freq: int = Field(
        -1, ge=-1, description="Steps between samples of the gSDE noise matrix; -1: once per rollout."
    )
    recompute_states: bool = Field(
        defaults.RECOMPUTE_STATES,
        description="Recompute the memory state at the start of each sequence before every epoch.",
    )
    stats_window_size: int = Field(100, ge=1, description="Episodes in the logged mean return.")


class OptimizerSettings(Section):
    """The optimizer of a supervised training."""

    name: Literal["rmsprop", "adam", "sgd"] = Field(
        "rmsprop", description="RMSprop of Graves (2013, eqs. 38-41), Adam, or SGD."
    )
    learning_rate: float = Field(1e-4, gt=0, description="Learning rate.")
    learning_rate_schedule: ScheduleKind = Field(
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


class WatchSettings(Section):
    """Pages that play an episode beside the memory, during a training."""

    every: int | None = Field(
        None,
        ge=1,
        description="Environment steps, or sequences, between pages in the run's watch/ and in W&B; null: no pages.",
    )


class TrackingSettings(Section):
    """Project, group and tags of a run in Weights & Biases."""

    project: str = Field("ntm-rl", description="W&B project.")
    entity: str | None = Field(None, description="W&B user or team; null: your default.")
    group: str | None = Field(None, description="W&B group.")
    tags: list[str] = Field([], description="W&B tags.")
