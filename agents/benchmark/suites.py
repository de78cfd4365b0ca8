"""Suites of the memory benchmark; each task is a packaged config with overrides."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ntm_rl.errors import InputError, did_you_mean


@dataclass(frozen=True)
class SuiteTask:
    """A task of a suite: name, packaged config, and `key=value` overrides."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Tasks that are measured together.

    Attributes:
        title: Title of the report.
        tasks: Tasks in the order of the report.
    """

    title: str
    tasks: tuple[SuiteTask, ...]


def _popgym(name: str) -> SuiteTask:
    """All games share one config, as their own configs may be tuned to the game or to a core."""
    overrides = [f"env.id=popgym-{name}-v0"]
    if name.startswith("Concentration"):  # the observation does not show which card was turned last
        overrides.append("env.previous_action=true")
    return SuiteTask(name, "popgym/repeat_previous_easy", tuple(overrides))


# Early in training only the first steps of an episode give gradients, so they shrink with the corridor's length and
# need a small epsilon of Adam. With init=content, writes erase little. A rollout is one episode per environment, as
# longer ones leave too few updates.
_LONG_TMAZE = ("ppo.adam_epsilon=1e-8", "memory.ntm.init=content", "memory.ntm.memory_init=learned")


def _tmaze(length: int, sequence_length: int, timesteps: int, *overrides: str) -> SuiteTask:
    """A sequence covers the whole corridor, so that gradients reach its start; a rollout has four minibatches.

    The entropy coefficient is proportional to the cost of a wasted step, 1 / length.
    """
    sizes = {"n_steps": sequence_length, "sequence_length": sequence_length, "batch_size": 8 * sequence_length}
    options = [f"ppo.{key}={value}" for key, value in (sizes | {"ent_coef": 0.15 / length}).items()]
    return _by_length("memory/passive_tmaze", length, timesteps, (*options, *overrides))


def _chain(length: int) -> SuiteTask:
    return _by_length("memory/memory_chain", length, 1_000_000)


def _by_length(config: str, length: int, timesteps: int, overrides: Iterable[str] = ()) -> SuiteTask:
    sizes = (f"env.kwargs.length={length}", f"total_timesteps={timesteps}")
    return SuiteTask(f"length-{length}", config, (*sizes, *overrides))


_GAMES = (
    "RepeatFirstEasy",
    "RepeatPreviousEasy",
    "RepeatPreviousMedium",
    "CountRecallEasy",
    "AutoencodeEasy",
    "ConcentrationEasy",
    "HigherLowerEasy",
    "NoisyPositionOnlyCartPoleEasy",
)
# With a curriculum, cores would be compared at different difficulties.
_UNIFORM = "env.kwargs.curriculum=uniform"

SUITES: Mapping[str, Suite] = {
    "popgym-small": Suite(
        "Eight games of POPGym (Morad et al. 2023)",
        tuple(map(_popgym, _GAMES)),
    ),
    "minigrid": Suite(
        "MiniGrid's Memory seen through 3 x 3 tiles",
        (SuiteTask("MemoryS7", "minigrid/memory_s7"), SuiteTask("MemoryS9", "minigrid/memory_s9")),
    ),
    "algorithmic": Suite(
        "Tasks of the NTM paper (Graves et al. 2014) played as games",
        (
            SuiteTask("copy", "algorithmic/copy_ppo", (_UNIFORM,)),
            SuiteTask("associative_recall", "algorithmic/associative_recall_ppo", (_UNIFORM,)),
        ),
    ),
    "tmaze": Suite(
        "The passive T-Maze (Ni et al. 2023) by the length of its corridor",
        (  # from length 50, the budgets of Ni et al.
            _tmaze(20, 128, 600_000),
            _tmaze(50, 128, 1_000_000),
            _tmaze(100, 256, 2_000_000),
            _tmaze(250, 251, 4_000_000, *_LONG_TMAZE),
            _tmaze(500, 501, 4_000_000, *_LONG_TMAZE),
        ),
    ),
    "memory_len": Suite(
        "bsuite's memory chain (Osband et al. 2020) by its length, with one bit",
        tuple(map(_chain, (2, 5, 10, 20, 40, 100))),
    ),
}


def find_suite(name: str) -> Suite:
    """Returns the suite with a name.

    Raises:
        InputError: unknown name.
    """
    if name not in SUITES:
        raise InputError(f"suite = {name!r}: unknown suite; valid are {', '.join(SUITES)}.{did_you_mean(name, SUITES)}")
    return SUITES[name]


def choose_tasks(suite: Suite, names: Iterable[str] | None) -> list[SuiteTask]:
    """Returns the tasks with these names, or all tasks.

    Raises:
        InputError: the suite has no such task.
    """
    tasks = {task.name: task for task in suite.tasks}
    chosen = list(tasks) if names is None else list(names)
    for name in chosen:
        if name not in tasks:
            raise InputError(
                f"task = {name!r}: unknown task; the suite has {', '.join(tasks)}.{did_you_mean(name, tasks)}"
            )
    return [tasks[name] for name in chosen]
