"""The settings of a suite's tasks, with the number of environment steps that follows from the longest episode."""

from collections.abc import Iterable

from ntm_rl.agents.benchmark.suites import SuiteTask
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.episode_limit import episode_limit
from ntm_rl.envs.sb3.making import make_vec_env

EPISODES, MIN_TIMESTEPS, MAX_TIMESTEPS = 1_000, 150_000, 250_000


def budget(limit: int | None) -> int:
    """Returns the environment steps of a training: 1,000 episodes of `limit` steps, within 150,000 to 250,000.

    Args:
        limit: Steps of the longest episode; None: not known, which gives 250,000.
    """
    return MAX_TIMESTEPS if limit is None else min(max(EPISODES * limit, MIN_TIMESTEPS), MAX_TIMESTEPS)


def task_overrides(task: SuiteTask) -> list[str]:
    """Returns the overrides of a task; with the package's defaults, `budget` sets the steps unless the task does."""
    if not task.is_generic:
        return list(task.overrides)
    limit = longest_episode(_load(task.config, task.overrides).env_settings)
    return [f"total_timesteps={budget(limit)}", *task.overrides]


def longest_episode(settings: EnvSettings) -> int | None:
    """Returns the steps of the longest episode; None: not known. Makes one sub-environment, which takes milliseconds.

    Raises:
        InputError: as `make_vec_env`.
    """
    env = make_vec_env(settings, 1, 0)
    try:
        return episode_limit(env)
    finally:
        env.close()


def task_settings(task: SuiteTask) -> PpoTrainingSettings:
    """Returns the settings of a task's training."""
    return _load(task.config, task_overrides(task))


def _load(config: str, overrides: Iterable[str]) -> PpoTrainingSettings:
    settings = load_settings(config, overrides)
    assert isinstance(settings, PpoTrainingSettings)
    return settings
