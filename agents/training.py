"""Trains agents and networks, and resumes runs, with the trainer of the settings."""

from functools import partial

from ntm_rl.agents.ppo.trainer import PpoTrainer
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.runs.trainer import MakeTrainer
from ntm_rl.agents.runs.training import TrainingResult, resume_training, start_training
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.supervised.trainer import SupervisedTrainer


def train(settings: AnySettings, config: str, *, show_progress: bool = True) -> TrainingResult:
    """Trains in a new run directory.

    Args:
        settings: Settings of the training.
        config: Name of the config, under which the run is filed.
        show_progress: Show a progress bar.

    Raises:
        InputError: an environment that cannot be made, or a folder that cannot be written.
        NonFiniteError: a number is not finite, and `settings.on_nonfinite` is "stop".
    """
    settings = settings.resolved()
    return start_training(_trainer_of(settings), config, show_progress=show_progress)


def resume(run: Run, settings: AnySettings, *, show_progress: bool = True) -> TrainingResult:
    """Resumes a run; arguments and errors as `resume_training`."""
    settings = settings.resolved()
    return resume_training(_trainer_of(settings), run, settings, show_progress=show_progress)


def _trainer_of(settings: AnySettings) -> MakeTrainer:
    if isinstance(settings, SupervisedTrainingSettings):
        return partial(SupervisedTrainer, settings)
    return partial(PpoTrainer, settings)
