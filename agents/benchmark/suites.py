"""Suites of the memory benchmark; a task is a packaged config or an environment's id, with overrides."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ntm_rl.errors import InputError, did_you_mean


@dataclass(frozen=True)
class SuiteTask:
    """A task of a suite.

    Attributes:
        name: Name in reports.
        config: A packaged config, or an environment's id.
        overrides: `key=value` overrides.
        is_generic: Whether only the environment differs from the package's defaults; `budgets.py` sets the length.
        goal: Mean return whose time of arrival is reported, of suites with `has_own_scales`.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    is_generic: bool = False
    goal: float | None = None


@dataclass(frozen=True)
class Suite:
    """Tasks that are measured together.

    Attributes:
        title: Title of the report.
        tasks: Tasks in the order of the report.
        has_own_scales: Whether the returns of its tasks differ in scale: the report then has no mean over tasks, and
            shows them by steps and time.
    """

    title: str
    tasks: tuple[SuiteTask, ...]
    has_own_scales: bool = False


# One set of hyperparameters for the eight games whose results are published in docs/results/popgym_small.md.
_SMALL = "popgym/repeat_previous_easy"


def _generic(name: str, env_id: str, **kwargs: object) -> SuiteTask:
    """Returns a task with the package's defaults, and keyword arguments of its environment."""
    return SuiteTask(name, env_id, tuple(f"env.kwargs.{key}={value}" for key, value in kwargs.items()), True)


# Games with POPGym's `obs_requires_prev_action`: the observation does not show the last action.
_NEED_ACTION = ("Battleship", "Concentration", "MineSweeper", "MultiarmedBandit")


def _popgym(name: str) -> SuiteTask:
    task = _generic(name, f"popgym-{name}-v0")
    if name.startswith(_NEED_ACTION):
        return replace(task, overrides=(*task.overrides, "env.previous_action=true"))
    return task


def _small(name: str) -> SuiteTask:
    task = _popgym(name)
    return SuiteTask(name, _SMALL, (f"env.id={task.config}", *task.overrides))


def _endless_tmaze(length: int, corridors: int, uniform: bool) -> SuiteTask:
    name = f"EndlessTMaze-{'uniform' if uniform else 'fixed'}-{length}-{corridors}"
    return _generic(name, "ntm_rl/EndlessTMaze-v0", length=length, corridors=corridors, uniform=str(uniform).lower())


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
_POPGYM = tuple(
    name + difficulty
    for name in (
        "Autoencode",
        "Battleship",
        "Concentration",
        "CountRecall",
        "HigherLower",
        "MineSweeper",
        "MultiarmedBandit",
        "NoisyPositionOnlyCartPole",
        "NoisyPositionOnlyPendulum",
        "PositionOnlyCartPole",
        "PositionOnlyPendulum",
        "RepeatFirst",
        "RepeatPrevious",
        "VelocityOnlyCartpole",
    )
    for difficulty in ("Easy", "Medium", "Hard")
)
_SIZES = (1, 3, 5, 10)  # of Shchendrigin et al. (2026), for the length and the number of corridors
_ENDLESS_TMAZES = tuple(
    _endless_tmaze(length, corridors, uniform)
    for uniform in (False, True)
    for length in _SIZES
    for corridors in _SIZES
    if length > 1 or not uniform  # of length 1 both are the same
)
_COLOR_CUBES = tuple(
    _generic(f"ColorCubes-{each}", "ntm_rl/ColorCubes-v0", difficulty=each) for each in ("trivial", "medium", "extreme")
)

_DEV_GAMES = tuple(name for name in _GAMES if name != "ConcentrationEasy")
_DEV_TMAZES = (_endless_tmaze(5, 3, uniform=False), _endless_tmaze(5, 5, uniform=True))
_GENERAL_DEV = (
    *map(_popgym, _DEV_GAMES),
    *(_generic(f"MemoryChain-{length}", "ntm_rl/MemoryChain-v0", length=length) for length in (20, 40)),
    *(_generic(f"PassiveTMaze-{length}", "ntm_rl/PassiveTMaze-v0", length=length) for length in (50, 100)),
    _generic("MemoryS7", "MiniGrid-MemoryS7-v0", agent_view_size=3),
    _generic("CartPoleNoVelocity", "ntm_rl/CartPoleNoVelocity-v0"),
    _generic("Copy", "ntm_rl/Copy-v0", max_length=10),
    *_DEV_TMAZES,
)
_GENERAL_TEST = (
    *map(_popgym, (name for name in _POPGYM if name not in _DEV_GAMES)),
    _generic("MemoryChain-100", "ntm_rl/MemoryChain-v0", length=100),
    *(_generic(f"PassiveTMaze-{length}", "ntm_rl/PassiveTMaze-v0", length=length) for length in (250, 500)),
    *(_generic(f"MemoryS{size}", f"MiniGrid-MemoryS{size}-v0", agent_view_size=3) for size in (9, 11, 13)),
    _generic("AssociativeRecall", "ntm_rl/AssociativeRecall-v0"),
    *(task for task in _ENDLESS_TMAZES if task not in _DEV_TMAZES),
    *_COLOR_CUBES[:2],
    _generic("Pong", "ALE/Pong-v5", stack=1, size=44),  # single frames
)


def _atari(name: str, config: str, stack: int, timesteps: int, goal: float) -> SuiteTask:
    """Returns a game with frames of 84 x 84; its name ends with the number of stacked frames."""
    options = (f"env.kwargs.stack={stack}", "env.kwargs.size=84", "threads=1", f"total_timesteps={timesteps}")
    return SuiteTask(f"{name}-{stack}", f"atari/{config}", options, goal=goal)


# With a curriculum, cores would be compared at different difficulties.
_UNIFORM = "env.kwargs.curriculum=uniform"

SUITES: Mapping[str, Suite] = {
    "popgym-small": Suite(
        "Eight games of POPGym (Morad et al. 2023)",
        tuple(map(_small, _GAMES)),
    ),
    "popgym": Suite("POPGym's games in all difficulties, without Labyrinth", tuple(map(_popgym, _POPGYM))),
    "memory-rewriting": Suite(
        "Endless T-Maze and Color-Cubes (after Shchendrigin et al. 2026)", (*_ENDLESS_TMAZES, *_COLOR_CUBES)
    ),
    "general-dev": Suite("Tasks on which the defaults may be tuned", _GENERAL_DEV),
    "general-test": Suite("Tasks on which the defaults are measured once and never tuned", _GENERAL_TEST),
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
    "atari": Suite(
        "Atari games with frames of 84 x 84, four stacked ones or one",
        (
            _atari("Breakout", "breakout", 4, 2_000_000, goal=78),
            _atari("Seaquest", "seaquest", 4, 2_000_000, goal=880),
            _atari("Pong", "pong", 1, 4_000_000, goal=18),
            _atari("Breakout", "breakout", 1, 5_000_000, goal=113),
            _atari("FlickeringPong", "flickering_pong", 1, 3_500_000, goal=0),
            _atari("FlickeringPong", "flickering_pong", 4, 3_500_000, goal=0),
        ),
        has_own_scales=True,
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
        InputError: the suite has no such task, or no names.
    """
    tasks = {task.name: task for task in suite.tasks}
    chosen = list(tasks) if names is None else list(dict.fromkeys(names))
    if not chosen:
        raise InputError(f"tasks = '': must be at least one task of the suite; it has {', '.join(tasks)}")
    for name in chosen:
        if name not in tasks:
            raise InputError(
                f"task = {name!r}: unknown task; the suite has {', '.join(tasks)}.{did_you_mean(name, tasks)}"
            )
    return [tasks[name] for name in chosen]
