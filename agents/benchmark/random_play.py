"""Returns of random play, from which scores are normalised."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ntm_rl.agents.benchmark.budgets import task_settings
from ntm_rl.agents.benchmark.suites import SUITES, Suite, choose_tasks, find_suite
from ntm_rl.agents.inspection.evaluation import check_counts, close, play_episodes
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.envs.wrappers.action_masks import MaskFormat
from ntm_rl.errors import InputError

MAX_ENVS = 32


@dataclass(frozen=True)
class RandomPlay:
    """Random play of a task.

    Attributes:
        task: Name of the task.
        episodes: Number of episodes.
        mean: Mean return.
        error: Standard error of the mean.
    """

    task: str
    episodes: int
    mean: float
    error: float


class RandomPlayer:
    """Draws uniform allowed actions for all sub-environments."""

    def __init__(self, action_space: spaces.Space[Any], n_envs: int, seed: int):
        self._single, self._space = action_space, batch_space(action_space, n_envs)
        self._space.seed(seed)
        self._generator = np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """Returns random actions `[n_envs, ...]`; see `LoadedAgent.predict`."""
        if action_masks is None:
            return self._space.sample(), state
        return MaskFormat(self._single).sample(action_masks, self._generator), state


def random_returns(settings: EnvSettings, episodes: int, seed: int) -> NDArray[np.float64]:
    """Returns the returns of random play, `[episodes]`.

    Args:
        settings: The environment.
        episodes: Number of episodes.
        seed: Seed of the environment and of the actions.

    Raises:
        InputError: as `make_vec_env`, or fewer than one episode.
    """
    check_counts(seed, episodes=episodes)
    env = make_vec_env(settings, min(episodes, MAX_ENVS), seed, training=False)
    try:
        player = RandomPlayer(env.action_space, env.num_envs, seed)
        return np.array(play_episodes(player, env, episodes, None, False, False, settings.action_masks).returns)
    finally:
        close(env)


def play_suites(
    suites: Iterable[str], episodes: int, seed: int, tasks: Iterable[str] | None = None
) -> Iterator[RandomPlay]:
    """Measures random play on tasks of suites, each task once.

    Args:
        suites: Names of suites.
        episodes: Number of episodes per task, at least 2.
        seed: See `random_returns`.
        tasks: Names of tasks; None: all.

    Raises:
        InputError: an unknown name, no suite, or fewer than two episodes.
    """
    if episodes < 2:
        raise InputError(f"episodes = {episodes}: must be at least 2 for a standard error")
    suites = list(suites)
    if not suites:
        raise InputError(f"suites = '': must be at least one of {', '.join(SUITES)}")
    merged = {task.name: task for name in suites for task in find_suite(name).tasks}
    for task in choose_tasks(Suite("all", tuple(merged.values())), tasks):
        returns = random_returns(task_settings(task).env_settings, episodes, seed)
        yield RandomPlay(task.name, len(returns), float(returns.mean()), float(returns.std(ddof=1) / episodes**0.5))
