"""The settings of a whole training, and their schemas."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import AfterValidator, BaseModel, Field, create_model

from ntm_rl.agents import defaults
from ntm_rl.agents.settings.core_modules import check_core, import_core, split_core
from ntm_rl.agents.settings.environment_variables import WandbMode
from ntm_rl.agents.settings.kinds import PPO, SUPERVISED, TrainingKind
from ntm_rl.agents.settings.paths import OptionalPathText, PathText, user_path
from ntm_rl.agents.settings.sections import (
    MAX_LAYERS,
    MAX_SIZE,
    CheckpointSettings,
    OptimizerSettings,
    PolicySettings,
    PpoSettings,
    Section,
    TrackingSettings,
    ValidationSettings,
    WatchSettings,
)
from ntm_rl.cores.registry import core_class, core_names, is_built_in
from ntm_rl.envs.algorithmic.curriculum import CurriculumKind
from ntm_rl.envs.algorithmic.registry import TASKS, make_task
from ntm_rl.envs.algorithmic.task import AlgorithmicTask
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.modules import folder_of, split

MAX_ENVS = 2**16
MAX_PROCESSES = 2**12
CORE_DESCRIPTION = "The memory core; `ntm-rl list cores` lists them; `module:name` is a core that a module registers."
CoreName = Annotated[str, AfterValidator(check_core)]
UserModules = tuple[tuple[str | None, str | None], ...]  # names and folders


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

    core: CoreName = Field(defaults.CORE, description=CORE_DESCRIPTION)
    core_path: OptionalPathText = Field(
        None, description="Folder of the module of `module:name`; null: it is installed, or `train` runs in its folder."
    )
    memory: Any
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed.")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="Device: auto, cpu, cuda, cuda:N or mps."
    )
    processes: int = Field(
        1,
        ge=1,
        le=MAX_PROCESSES,
        description="Processes of this machine that train together, each on a part of the environments or sequences; "
        "under torchrun, the number is torchrun's.",
    )
    max_restarts: int = Field(
        3, ge=0, description="Times that all processes restart from the last checkpoint after one of them was lost."
    )
    rank_timeout: float = Field(
        600.0, gt=0, description="Seconds for which a process waits for the others before it regards one as lost."
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
    watch: WatchSettings = Field(WatchSettings(), description="Pages that play an episode beside the memory.")
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
    n_envs: Annotated[int, Field(ge=1, le=MAX_ENVS)] | Literal["auto"] = Field(
        "auto", description="Number of sub-environments; auto: 8 to 32, for a rollout of about 4,096 transitions."
    )
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

    core: CoreName = Field("ntm", description=CORE_DESCRIPTION)
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
