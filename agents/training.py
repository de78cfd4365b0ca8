"""Trains agents and networks, and resumes runs, with the trainer of the settings."""

import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ntm_rl.agents.inspection.training_pages import write_training_page
from ntm_rl.agents.parallel.joining import join, started_run
from ntm_rl.agents.parallel.ranks import Ranks
from ntm_rl.agents.ppo.trainer import PpoTrainer
from ntm_rl.agents.runs.changes import find_changes
from ntm_rl.agents.runs.run import Run, runs_of
from ntm_rl.agents.runs.trainer import MakeTrainer
from ntm_rl.agents.runs.training import TrainingResult, resume_training, start_training
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.errors import InputError


def train(settings: AnySettings, config: str, *, show_progress: bool = True) -> TrainingResult:
    """Trains in a new run directory.

    Args:
        settings: Settings of the training.
        config: Name of the config, under which the run is filed.
        show_progress: Show a progress bar.

    Raises:
        InputError: an environment that cannot be made, or a folder that cannot be written.
        NonFiniteError: a number is not finite, and `settings.on_nonfinite` is "stop".
        RankLostError: another process of a data-parallel training was lost.
    """
    settings = settings.resolved()
    ranks = _join(settings)
    folder = ranks.on_first(started_run)
    if folder is not None:  # this launch has restarted its processes
        run = Run.open(folder)
        return resume_training(_trainer_of(settings), run, settings, ranks=ranks, show_progress=show_progress)
    return start_training(_trainer_of(settings), config, ranks=ranks, show_progress=show_progress)


def resume(run: Run, settings: AnySettings, *, show_progress: bool = True) -> TrainingResult:
    """Resumes a run; arguments and errors as `resume_training`."""
    settings = settings.resolved()
    ranks = _join(settings)
    return resume_training(_trainer_of(settings), run, settings, ranks=ranks, show_progress=show_progress)


def train_or_resume(settings: AnySettings, config: str, *, show_progress: bool = True) -> TrainingResult:
    """Resumes the newest run of a config and seed in `settings.run_dir` that has a checkpoint, or trains in a new run.

    Arguments and errors as `train`.
    """
    started = next((run for run in runs_of(Path(settings.run_dir, config), settings.seed) if run.has_checkpoint), None)
    if started is None:
        return train(settings, config, show_progress=show_progress)
    run_dir = started.settings().run_dir  # differs if the folder was moved
    return resume(started, settings.model_copy(update={"run_dir": run_dir}), show_progress=show_progress)


def package_versions() -> dict[str, str]:
    """Returns the versions on which the result of a training depends."""
    packages = ("ntm-rl", "torch", "numpy", "gymnasium", "stable-baselines3")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _join(settings: AnySettings) -> Ranks:
    """Joins the other processes of the training.

    Raises:
        InputError: they have other settings or versions, or no launcher has started them.
    """
    ranks = join(settings.rank_timeout)
    if ranks.size == 1:
        if settings.processes > 1:
            raise InputError(
                f"processes = {settings.processes}: `ntm-rl train` and `ntm-rl resume` start them; from Python, run "
                "the script with torchrun"
            )
        return ranks
    every = ranks.gather_objects((platform.node(), package_versions(), settings.model_dump()))
    for rank, (host, versions, values) in enumerate(every):
        changes = find_changes(every[0][1], versions) | find_changes(every[0][2], values)
        if changes:
            key, (first, other) = next(iter(changes.items()))
            error = InputError(
                f"{key} = {other!r} of rank {rank} on host {host}: that of rank 0 on {every[0][0]} is {first!r}; all "
                "ranks need the same config and versions"
            )
            error.is_reported = not ranks.is_first
            raise error
    return ranks


def _trainer_of(settings: AnySettings) -> MakeTrainer:
    write_page = partial(write_training_page, settings)
    if isinstance(settings, SupervisedTrainingSettings):
        return partial(SupervisedTrainer, settings, write_page=write_page)
    return partial(PpoTrainer, settings, write_page=write_page)
