"""The cells of a grid of trainings: which there are, and their results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ntm_rl.agents.benchmark.suites import Task, choose_tasks, find_suite
from ntm_rl.agents.ppo.training import make_model
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.cores.matching import matched_options
from ntm_rl.cores.registry import core_class, core_names
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

RESULT = "cell.json"


@dataclass(frozen=True)
class Cell:
    """One training of the grid: the config of its task with all overrides."""

    suite: str
    task: str
    core: str
    seed: int
    config: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its runs are filed under."""
        return f"{self.suite}/{self.task}/{self.core}"

    def settings(self, out: Path) -> PpoTrainingSettings:
        """Returns the settings of its training.

        Raises:
            InputError: an override that is not valid.
        """
        settings = load_settings(self.config, self.overrides)
        assert isinstance(settings, PpoTrainingSettings)
        return settings.model_copy(update={"run_dir": str(out)})


@dataclass(frozen=True)
class Result:
    """What came of a cell.

    Attributes:
        suite: Name of the suite.
        task: Name of the task.
        core: Name of the memory core.
        seed: Of the training.
        timesteps: Environment steps of the training.
        parameters: Of the memory core.
        mmer: Maximum over training of the mean episodic return per epoch.
        last: The mean episodic return of the last epoch.
        steps_per_second: Environment steps a second, the median over the training.
        run: Folder of the run.
    """

    suite: str
    task: str
    core: str
    seed: int
    timesteps: int
    parameters: int
    mmer: float
    last: float
    steps_per_second: float
    run: str


def plan(
    suite: str,
    cores: Sequence[str],
    seeds: int,
    *,
    tasks: Sequence[str] | None = None,
    timesteps: int | None = None,
    overrides: Sequence[str] = (),
) -> list[Cell]:
    """Returns the cells of a grid, all of one seed before those of the next.

    The core that a task's config names keeps its options; every other gets about as many parameters as that one.

    Args:
        suite: Name of the suite.
        cores: Names of memory cores.
        seeds: How many; they count from 0.
        tasks: Names of tasks; None: all of the suite.
        timesteps: Environment steps of each training; None: each config's own.
        overrides: `key=value` for all trainings.

    Raises:
        InputError: unknown names, a budget below one rollout, or an override that is not valid.
    """
    chosen = choose_tasks(find_suite(suite), tasks)
    cores = list(dict.fromkeys(cores))
    for core in cores:
        core_class(core)
    if seeds < 1 or not cores:
        raise InputError(f"seeds = {seeds}, cores = {','.join(cores)!r}: must be at least one of each")
    common = [f"tracking.group=memory-{suite}", *([] if timesteps is None else [f"total_timesteps={timesteps}"])]
    sized = {task: _with_sizes(task, cores, [*task.overrides, *common, *overrides]) for task in chosen}
    return [
        Cell(suite, task.name, core, seed, task.config, (*sized[task][core], f"core={core}", f"seed={seed}"))
        for seed in range(seeds)
        for task in chosen
        for core in cores
    ]


def _with_sizes(task: Task, cores: Sequence[str], overrides: list[str]) -> Mapping[str, list[str]]:
    """Returns of each core a task's overrides and the options that match its size."""
    settings = load_settings(task.config, overrides)
    assert isinstance(settings, PpoTrainingSettings)
    rollout = settings.ppo.n_steps * settings.n_envs
    if settings.total_timesteps < rollout:
        raise InputError(
            f"timesteps = {settings.total_timesteps}: must be at least one rollout of task {task.name}, which is "
            f"ppo.n_steps * n_envs = {rollout}"
        )
    input_size, parameters = core_sizes(settings)
    matched: dict[str, list[str]] = {}
    for core in cores:
        options = {} if core == settings.core else matched_options(core, input_size, parameters)
        matched[core] = [*overrides, *(f"memory.{core}.{key}={value}" for key, value in options.items())]
    return matched


def core_sizes(settings: PpoTrainingSettings) -> tuple[int, int]:
    """Returns how many features a training's core sees in a step, and how many parameters it has."""
    env = make_vec_env(settings.env_settings, settings.n_envs, settings.seed)
    core = make_model(settings, env).policy.core
    env.close()
    return core.input_size, sum(each.numel() for each in core.parameters())


def read_results(suite: str, out: Path) -> list[Result]:
    """Returns the results of all finished cells in a grid's folder, in the order of tasks, cores and seeds.

    Raises:
        InputError: there is none, or one is damaged.
    """
    tasks = [task.name for task in find_suite(suite).tasks]
    folders = [path.parent for path in (out / suite).glob(f"*/*/*/{RESULT}")]
    known = [folder for folder in folders if folder.parts[-3] in tasks and folder.parts[-2] in core_names()]
    results = [read_result(folder) for folder in known]
    if not results:
        raise InputError(f"out = {str(out)!r}: no finished training of the suite {suite!r} in it")
    cores = core_names()
    return sorted(results, key=lambda each: (tasks.index(each.task), cores.index(each.core), each.seed))


def read_result(run: Path) -> Result:
    """Reads the result in the run folder of a finished cell.

    Raises:
        StorageError: it is damaged.
    """
    try:
        return Result(**json.loads((run / RESULT).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(f"{run / RESULT}: cannot be read: {error}; delete it to train the rest again") from error
