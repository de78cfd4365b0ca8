"""Plays whole episodes with a trained agent."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.runs.loading import Origin, RunAgent, load_run_agent, load_run_network
from ntm_rl.agents.runs.progress import ProgressDisplay
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.schema import PpoTrainingSettings, SupervisedTrainingSettings
from ntm_rl.agents.supervised.scores import Score, label, score
from ntm_rl.envs.algorithmic.task import Difficulty
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

MAX_COPIES = 16
MAX_STEPS = 10_000  # of an episode, where the environment has no time limit of its own

SECONDS_BETWEEN_UPDATES = 0.5  # of the progress that is shown


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of whole episodes.

    Attributes:
        run: The run's folder.
        origin: Which agent played.
        episodes: How many were asked for.
        ended: How many of them ended; the others were given up after `max_steps` steps, or were not begun behind one
            that was.
        mean_return: Of those that ended, not normalised and not clipped; None if none did.
        std_return: Its standard deviation.
        mean_length: Their mean length in steps.
        max_steps: Steps after which an episode is given up; None: never, as all of them end.
        mean_return_so_far: Of the episodes that were given up, when they were; None without any.
    """

    run: Path
    origin: Origin
    episodes: int
    ended: int
    mean_return: float | None
    std_return: float | None
    mean_length: float | None
    max_steps: int | None
    mean_return_so_far: float | None


@dataclass
class Played:
    """Episodes of an evaluation: returns and lengths of those that ended, returns of those that were given up."""

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    given_up: list[float] = field(default_factory=list)


def evaluate(
    run: Run,
    episodes: int = 100,
    *,
    seed: int = 10_000,
    deterministic: bool = True,
    best: bool = False,
    max_steps: int | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Evaluates a run's agent, as `load_run_agent` finds it, at the level that it reached in its curriculum.

    Args:
        run: What to evaluate.
        episodes: Whole episodes to play.
        seed: Of the environments and of sampled actions; another than the training's by default.
        deterministic: Take the most likely action instead of a sample.
        best: Take the agent with the best mean return of the training instead of the last.
        max_steps: Steps after which an episode is given up; None: never where the environment has a time limit, else
            10,000.
        show_progress: Show on standard error how far it is.

    Raises:
        InputError: no agent, or a damaged one.
    """
    check_counts(seed, episodes=episodes, **({} if max_steps is None else {"max_steps": max_steps}))
    settings = run.settings()
    if not isinstance(settings, PpoTrainingSettings):
        raise InputError(f"run = {str(run.path)!r}: a supervised run plays no episodes; use evaluate_supervised")
    agent = load_run_agent(run, "best" if best else "last")
    print(f"plays {settings.env.id} with {agent.origin}", file=sys.stderr)
    env = make_vec_env(played_settings(settings.env_settings), min(episodes, MAX_COPIES), seed, training=False)
    try:
        prepare(env, agent)
        limit = max_steps or (None if _has_time_limit(settings.env_settings, env) else MAX_STEPS)
        with seeded(agent, seed, env.num_envs):
            played = play_episodes(agent, env, episodes, limit, deterministic, show_progress)
    finally:
        close(env)
    return _summary(run, agent.origin, episodes, limit, played)


def check_counts(seed: int, **counts: int) -> None:
    """Raises an `InputError` for a seed that no environment takes, or a count below 1."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed = {seed}: must be from 0 to {2**32 - 1}")
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} = {value}: must be at least 1")


def played_settings(settings: EnvSettings) -> EnvSettings:
    """Returns the settings of an environment in which an agent plays that brings its own statistics."""
    return replace(settings, normalize_observation=False, normalize_reward=False)


def prepare(env: VecEnv, agent: RunAgent) -> None:
    """Keeps an environment's curriculum at the level that an agent reached, and checks that the agent fits it.

    Raises:
        InputError: the environment has other observations or actions than the agent.
    """
    found = _sizes(agent.policy.observation_space), _sizes(agent.policy.action_space)
    if found != (_sizes(env.observation_space), _sizes(env.action_space)):
        raise InputError(
            f"{agent.origin.path}: its agent sees {agent.policy.observation_space} and acts in "
            f"{agent.policy.action_space}; the environment of the run's config shows {env.observation_space} and takes "
            f"{env.action_space}; was env changed in config.yaml?"
        )
    level = agent.origin.level
    if level is not None and curricula(env):
        env.env_method("fix_level", level)


def _sizes(space: spaces.Space[Any]) -> Any:
    """Returns what must be the same in an agent's space and the environment's; images may have their channels last."""
    if isinstance(space, spaces.Dict):
        return {key: _sizes(part) for key, part in space.spaces.items()}
    return type(space), sorted(space.shape or ()), getattr(space, "n", None), str(getattr(space, "nvec", None))


@contextmanager
def seeded(agent: LoadedAgent, seed: int, copies: int) -> Iterator[None]:
    """Samples an agent's actions from a seed within, and leaves torch's own generators as they were."""
    device = agent.policy.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if agent.policy.use_sde:  # its noise is drawn once, for each copy its own
            agent.policy.reset_noise(copies)
        yield


def close(env: VecEnv) -> None:
    """Closes an environment whose episodes have been played: what fails now costs no result."""
    try:
        env.close()
    except Exception as error:
        print(f"note: the environment could not be closed: {type(error).__name__}: {error}", file=sys.stderr)


def _has_time_limit(settings: EnvSettings, env: VecEnv) -> bool:
    """Whether all episodes are known to end: by a time limit, or because a native environment's do."""
    limit = settings.max_episode_steps or settings.kwargs.get("max_episode_steps")
    with suppress(gym.error.Error, ImportError):
        limit = limit or gym.spec(settings.id).max_episode_steps
    return limit is not None or isinstance(env, VectorEnvAdapter)


def play_episodes(
    agent: LoadedAgent, env: VecEnv, episodes: int, limit: int | None, deterministic: bool, show_progress: bool
) -> Played:
    """Plays episodes in all copies of an environment, each its share, so that short ones do not count more often.

    A copy whose episode takes more than `limit` steps plays no more.
    """
    copies = env.num_envs
    left = np.array([(episodes + copy) // copies for copy in range(copies)])
    played, returns, lengths = Played(), np.zeros(copies), np.zeros(copies, dtype=np.int64)
    observations, state, starts = env.reset(), None, np.ones(copies, dtype=np.bool_)
    display, shown = ProgressDisplay(0, episodes, "episodes") if show_progress else None, time.monotonic()
    try:
        while left.any():
            actions, state = agent.predict(observations, state, starts, deterministic)
            observations, rewards, starts, infos = env.step(actions)
            returns, lengths = returns + rewards, lengths + 1
            for copy in np.flatnonzero(starts & (left > 0)).tolist():
                episode = infos[copy].get("episode")
                if episode is not None:  # else a part of a game has ended, and not the game
                    played.returns.append(float(episode["r"]))
                    played.lengths.append(int(episode["l"]))
                    left[copy] -= 1
                    returns[copy], lengths[copy] = 0, 0
            for copy in np.flatnonzero((left > 0) & (lengths >= (limit or np.inf))).tolist():
                played.given_up.append(float(returns[copy]))
                left[copy] = 0
            if display is not None and time.monotonic() - shown > SECONDS_BETWEEN_UPDATES:
                shown = time.monotonic()
                display.update(len(played.returns), f"{lengths.max():,} steps in the longest under way")
    finally:
        if display is not None:
            display.close()
    return played


def _summary(run: Run, origin: Origin, episodes: int, limit: int | None, played: Played) -> Evaluation:
    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    with np.errstate(invalid="ignore"):  # of infinite returns
        deviation = float(np.std(played.returns)) if played.returns else None
    return Evaluation(
        run.path,
        origin,
        episodes,
        len(played.returns),
        mean(played.returns),
        deviation,
        mean(played.lengths),
        limit,
        mean(played.given_up),
    )


@dataclass(frozen=True)
class SupervisedEvaluation:
    """How well a supervised run's network answers.

    Attributes:
        run: The run's folder.
        origin: Which network answered.
        scores: By difficulty, that of training under "as in training".
    """

    run: Path
    origin: Origin
    scores: dict[str, Score]


def evaluate_supervised(
    run: Run, sequences: int = 100, difficulties: Sequence[Difficulty] = (), *, seed: int = 10_000, best: bool = False
) -> SupervisedEvaluation:
    """Scores a supervised run's network, as `load_run_network` finds it, on fresh sequences.

    Args:
        run: What to evaluate.
        sequences: Of each difficulty.
        difficulties: Such as `{"length": 120}`; by default those of training and those of `validation.longer`.
        seed: Of the sequences.
        best: Take the network that was best in validation.

    Raises:
        InputError: no network, a damaged one, one of another task, or a difficulty that the task does not have.
    """
    check_counts(seed, episodes=sequences)
    settings = run.settings()
    if not isinstance(settings, SupervisedTrainingSettings):
        raise InputError(f"run = {str(run.path)!r}: not a supervised run")
    task = settings.make_task()
    network, origin = load_run_network(run, "best" if best else "last")
    print(f"plays {settings.task.name} with {origin}", file=sys.stderr)
    rng = np.random.default_rng(seed)
    chosen: list[Difficulty | None] = [*difficulties] or [None, *settings.validation.longer]
    scores = {
        "as in training" if difficulty is None else label(difficulty): score(
            network, task.sample(sequences, rng, difficulty), task
        )
        for difficulty in chosen
    }
    return SupervisedEvaluation(run.path, origin, scores)
