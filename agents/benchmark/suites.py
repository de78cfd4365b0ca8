"""What the memory benchmark trains on: suites of tasks, each a packaged config with overrides."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ntm_rl.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Task:
    """One task of a suite: its name, a packaged config, and `key=value` overrides."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Tasks that are measured together.

    Attributes:
        title: What they are, in a few words.
        tasks: In the order of the report.
    """

    title: str
    tasks: tuple[Task, ...]


def _popgym(name: str) -> Task:
    """One config for all of them: a game's own may be tuned to it, or to a core."""
    overrides = [f"env.id=popgym-{name}-v0"]
    if name.startswith("Concentration"):  # which card was turned last is nowhere else to be seen
        overrides.append("env.previous_action=true")
    return Task(name, "popgym/repeat_previous_easy", tuple(overrides))


# A beginner's gradients shrink with the corridor, as only its first few steps count, and so must Adam's epsilon; a
# rollout is one episode of each copy, as with longer ones there are too few updates; and writes erase little.
_LONG_TMAZE = ("ppo.adam_epsilon=1e-8", "memory.ntm.init=content", "memory.ntm.memory_init=learned")


def _tmaze(length: int, sequence_length: int, timesteps: int, *overrides: str) -> Task:
    """The whole corridor fits into a sequence, so that gradients reach its beginning; always four minibatches.

    The entropy bonus shrinks as the cost of a step aside does, which is 1 / length.
    """
    sizes = {"n_steps": sequence_length, "sequence_length": sequence_length, "batch_size": 8 * sequence_length}
    options = [f"ppo.{key}={value}" for key, value in (sizes | {"ent_coef": 0.15 / length}).items()]
    return _by_length("memory/passive_tmaze", length, timesteps, (*options, *overrides))


def _chain(length: int) -> Task:
    return _by_length("memory/memory_chain", length, 1_000_000)


def _by_length(config: str, length: int, timesteps: int, overrides: Iterable[str] = ()) -> Task:
    sizes = (f"env.kwargs.length={length}", f"total_timesteps={timesteps}")
    return Task(f"length-{length}", config, (*sizes, *overrides))


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
# A curriculum would be measured at the difficulty that each core has reached, so there is none.
_UNIFORM = "env.kwargs.curriculum=uniform"

SUITES: Mapping[str, Suite] = {
    "popgym-small": Suite(
        "Eight games of POPGym (Morad et al. 2023)",
        tuple(map(_popgym, _GAMES)),
    ),
    "minigrid": Suite(
        "MiniGrid's Memory seen through 3 x 3 tiles",
        (Task("MemoryS7", "minigrid/memory_s7"), Task("MemoryS9", "minigrid/memory_s9")),
    ),
    "algorithmic": Suite(
        "Tasks of the NTM paper (Graves et al. 2014) played as games",
        (
            Task("copy", "algorithmic/copy_ppo", (_UNIFORM,)),
            Task("associative_recall", "algorithmic/associative_recall_ppo", (_UNIFORM,)),
        ),
    ),
    "tmaze": Suite(
        "The passive T-Maze (Ni et al. 2023) by the length of its corridor",
        (  # from 50 on with the budgets of Ni et al.
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
    """Returns the suite of a name.

    Raises:
        InputError: there is none.
    """
    if name not in SUITES:
        raise InputError(f"suite = {name!r}: no such suite; valid are {', '.join(SUITES)}.{did_you_mean(name, SUITES)}")
    return SUITES[name]


def choose_tasks(suite: Suite, names: Iterable[str] | None) -> list[Task]:
    """Returns the tasks of these names, all without names.

    Raises:
        InputError: the suite has no such task.
    """
    tasks = {task.name: task for task in suite.tasks}
    chosen = list(tasks) if names is None else list(names)
    for name in chosen:
        if name not in tasks:
            raise InputError(
                f"task = {name!r}: not in the suite, which has {', '.join(tasks)}.{did_you_mean(name, tasks)}"
            )
    return [tasks[name] for name in chosen]
