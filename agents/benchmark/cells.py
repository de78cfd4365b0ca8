"""The cells of a grid of trainings and their results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ntm_rl.agents.benchmark.budgets import task_overrides
from ntm_rl.agents.benchmark.suites import SuiteTask, choose_tasks, find_suite
from ntm_rl.agents.ppo.making import make_model, with_masks, with_sizes
from ntm_rl.agents.ppo.probe import probe_environment
from ntm_rl.agents.runs.changes import find_changes
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
    """One training of the grid: the config of its task, and all overrides."""

    suite: str
    task: str
    core: str
    seed: int
    config: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Folder of its runs."""
        return f"{self.suite}/{self.task}/{self.core}"

    def settings(self, out: Path) -> PpoTrainingSettings:
        """Returns the settings of the training.

        Raises:
            InputError: an invalid override.
        """
        settings = load_settings(self.config, self.overrides)
        assert isinstance(settings, PpoTrainingSettings)
        return settings.model_copy(update={"run_dir": str(out)})


@dataclass(frozen=True)
class Result:
    """Result of a cell.

    Attributes:
        suite: Name of the suite.
        task: Name of the task.
        core: Name of the memory core.
        seed: Seed of the training.
        timesteps: Environment steps of the training.
        parameters: Number of parameters of the memory core.
        mmer: Maximum over training of the mean episodic return per epoch.
        last: The mean episodic return of the last epoch.
        steps_per_second: Environment steps per second, median over the training.
        run: Run directory, relative to the grid's folder.
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
    """Returns the cells of a grid, ordered by seed.

    The core of a task's config keeps its options; the other cores get about as many parameters.

    Args:
        suite: Name of the suite.
        cores: Names of memory cores.
        seeds: Number of seeds, from 0 on.
        tasks: Names of tasks; None: all tasks of the suite.
        timesteps: Environment steps of each training; None: see `task_overrides`.
        overrides: `key=value` settings of all trainings.

    Raises:
        InputError: an unknown name, no task, core or seed, fewer timesteps than one rollout, or an invalid override.
    """
    chosen = choose_tasks(find_suite(suite), tasks)
    cores = list(dict.fromkeys(cores))
    for core in cores:
        core_class(core)
    if not cores:
        raise InputError(f"cores = '': must be at least one of {', '.join(core_names())}")
    for name, number in {"seeds": seeds, "timesteps": timesteps}.items():
        if number is not None and number < 1:
            raise InputError(f"{name} = {number}: must be at least 1")
    common = [f"tracking.group=memory-{suite}", *([] if timesteps is None else [f"total_timesteps={timesteps}"])]
    sized = {task: _with_sizes(task, cores, [*task_overrides(task), *common, *overrides]) for task in chosen}
    return [
        Cell(suite, task.name, core, seed, task.config, (*sized[task][core], f"core={core}", f"seed={seed}"))
        for seed in range(seeds)
        for task in chosen
        for core in cores
    ]


def _with_sizes(task: SuiteTask, cores: Sequence[str], overrides: list[str]) -> Mapping[str, list[str]]:
    """Returns for each core the overrides of a task and the options that match the core's size."""
    settings = load_settings(task.config, overrides)
    assert isinstance(settings, PpoTrainingSettings)
    probe = probe_environment(settings.env_settings, settings.seed)
    automatic = settings.model_dump()
    settings = with_masks(with_sizes(settings, probe.episode_limit, settings.processes), probe.has_masks)
    chosen = find_changes(automatic, settings.model_dump())
    # As in the settings of a run: with "auto", a resumed grid would be taken for another one.
    overrides = [*overrides, *(f"{key}={new}" for key, (_, new) in chosen.items())]
    assert isinstance(settings.n_envs, int) and isinstance(settings.ppo.n_steps, int)
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
    """Returns the input size and the number of parameters of a training's core."""
    env = make_vec_env(settings.env_settings, 1, settings.seed)
    core = make_model(settings, env).policy.core
    env.close()
    return core.input_size, sum(each.numel() for each in core.parameters())


def read_results(suite: str, out: Path) -> list[Result]:
    """Returns the results of all finished cells of a grid, ordered by task, core and seed.

    Raises:
        InputError: no cell is finished, or a result is damaged.
    """
    tasks = [task.name for task in find_suite(suite).tasks]
    folders = [path.parent for path in (out / suite).glob(f"*/*/*/{RESULT}")]
    known = [folder for folder in folders if folder.parts[-3] in tasks and folder.parts[-2] in core_names()]
    results = [read_result(folder) for folder in known]
    if not results:
        raise InputError(f"out = {str(out)!r}: contains no finished training of the suite {suite!r}")
    cores = core_names()
    return sorted(results, key=lambda each: (tasks.index(each.task), cores.index(each.core), each.seed))


def read_result(run: Path) -> Result:
    """Reads the result in the run directory of a finished cell.

    Raises:
        StorageError: the result is damaged.
    """
    try:
        return Result(**json.loads((run / RESULT).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(f"{run / RESULT}: cannot be read: {error}; delete it and run the command again") from error
