"""Evaluation of trained agents and networks."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.runs.loading import Origin, RunAgent, load_run_agent, load_run_network
from ntm_rl.agents.runs.progress import ProgressDisplay
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.supervised.scores import Score, label, score
from ntm_rl.envs.algorithmic.task import Difficulty
from ntm_rl.envs.factory import EnvSettings, UseMasks
from ntm_rl.envs.sb3.action_masks import ActionMaskReader
from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

MAX_ENVS = 16
MAX_STEPS = 10_000  # default length limit of an episode in environments without a time limit
SECONDS_BETWEEN_UPDATES = 0.5  # of the progress display


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of whole episodes.

    Attributes:
        run: The run's folder.
        origin: The agent's source.
        episodes: Number of episodes requested.
        ended: Number of episodes that ended. A sub-environment stops when its episode reaches `max_steps`.
        mean_return: Mean return of the ended episodes, not normalised and not clipped; None without any.
        std_return: Standard deviation of these returns.
        mean_length: Mean length of these episodes in steps.
        max_steps: Length limit of an episode; None: no limit.
        mean_return_so_far: Mean return of the episodes that reached the limit; None without any.
        success_rate: Mean of the environment's `is_success` over the ended episodes; None if it does not report it.
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
    success_rate: float | None


@dataclass
class EpisodeResults:
    """Returns, lengths and successes of the episodes that ended, and returns of those that reached the length limit."""

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    successes: list[float] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)


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
    """Evaluates a run's agent (see `load_run_agent`) at the curriculum level that it reached.

    Args:
        run: A PPO run.
        episodes: Number of episodes.
        seed: Seed of the environments and of sampled actions.
        deterministic: Take the most likely action instead of a sample.
        best: Use the agent with the best mean training return instead of the last.
        max_steps: Length limit of an episode; None: 10,000, or no limit if the environment has a time limit.
        show_progress: Show a progress bar on standard error.

    Raises:
        InputError: no agent, a damaged one, or one that does not fit the environment.
    """
    check_counts(seed, episodes=episodes, **({} if max_steps is None else {"max_steps": max_steps}))
    settings = run.ppo_settings()
    settings.import_core()
    agent = load_run_agent(run, best=best)
    print(f"plays {settings.env.id} with {agent.origin}", file=sys.stderr)
    env = make_vec_env(played_settings(settings.env_settings), min(episodes, MAX_ENVS), seed, training=False)
    try:
        prepare(env, agent)
        limit = max_steps or (None if _has_time_limit(settings.env_settings, env) else MAX_STEPS)
        with seeded(agent, seed, env.num_envs):
            use_masks = settings.env.action_masks
            results = play_episodes(agent, env, episodes, limit, deterministic, show_progress, use_masks)
    finally:
        close(env)
    return _summary(run, agent.origin, episodes, limit, results)


def check_counts(seed: int, **counts: int) -> None:
    """Raises an `InputError` for a seed out of range or a count below 1."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed = {seed}: must be from 0 to {2**32 - 1}")
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} = {value}: must be at least 1")


def played_settings(settings: EnvSettings) -> EnvSettings:
    """Returns environment settings without normalisation, as the agent normalises with its own statistics."""
    return replace(settings, normalize_observation=False, normalize_reward=False)


def prepare(env: VecEnv, agent: RunAgent) -> None:
    """Checks that an agent fits an environment, and fixes the curriculum at the level that the agent reached.

    Raises:
        InputError: the observation or action spaces differ.
    """
    agent_sizes = _sizes(agent.policy.observation_space), _sizes(agent.policy.action_space)
    if agent_sizes != (_sizes(env.observation_space), _sizes(env.action_space)):
        raise InputError(
            f"{agent.origin.path}: the agent's spaces are {agent.policy.observation_space} and "
            f"{agent.policy.action_space}, those of the environment in the run's config {env.observation_space} and "
            f"{env.action_space}; was env changed in config.yaml?"
        )
    level = agent.origin.level
    if level is not None and curricula(env):
        env.env_method("fix_level", level)


def _sizes(space: spaces.Space[Any]) -> Any:
    """Returns the properties of a space that must match; the sorted shape allows images with channels last."""
    if isinstance(space, spaces.Dict):
        return {key: _sizes(part) for key, part in space.spaces.items()}
    return type(space), sorted(space.shape or ()), getattr(space, "n", None), str(getattr(space, "nvec", None))


@contextmanager
def seeded(agent: LoadedAgent, seed: int, n_envs: int) -> Iterator[None]:
    """Seeds an agent's sampling within the context and restores torch's generators afterwards."""
    device = agent.policy.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if agent.policy.use_sde:  # one draw of noise per sub-environment
            agent.policy.reset_noise(n_envs)
        yield


def close(env: VecEnv) -> None:
    """Closes an environment; an error is printed, so that the results are kept."""
    try:
        env.close()
    except Exception as error:
        print(f"note: the environment could not be closed: {type(error).__name__}: {error}", file=sys.stderr)


def _has_time_limit(settings: EnvSettings, env: VecEnv) -> bool:
    """Whether all episodes end: by a time limit, or because the environment is a native one."""
    limit = settings.max_episode_steps or settings.kwargs.get("max_episode_steps")
    with suppress(gym.error.Error, ImportError):
        limit = limit or gym.spec(settings.id).max_episode_steps
    return limit is not None or isinstance(env, VectorEnvAdapter)


class Player(Protocol):
    """Plays a vector environment, as a `LoadedAgent` does."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """Returns actions and the next state; see `LoadedAgent.predict`."""


def play_episodes(
    agent: Player,
    env: VecEnv,
    episodes: int,
    limit: int | None,
    deterministic: bool,
    show_progress: bool,
    use_masks: UseMasks = "auto",
) -> EpisodeResults:
    """Plays a fixed share of the episodes in each sub-environment, so that short ones are not over-represented.

    A sub-environment stops when its episode reaches `limit` steps.
    """
    n_envs = env.num_envs
    left = np.array([(episodes + index) // n_envs for index in range(n_envs)])
    results, returns, lengths = EpisodeResults(), np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)
    observations, state, starts = env.reset(), None, np.ones(n_envs, dtype=np.bool_)
    reader = ActionMaskReader(env, use_masks)
    masks = reader.reset()
    display, shown = ProgressDisplay(0, episodes, "episodes") if show_progress else None, time.monotonic()
    try:
        while left.any():
            actions, state = agent.predict(observations, state, starts, deterministic, masks)
            observations, rewards, starts, infos = env.step(actions)
            masks = reader.step(infos, starts)
            returns, lengths = returns + rewards, lengths + 1
            for index in np.flatnonzero(starts & (left > 0)).tolist():
                episode = infos[index].get("episode")
                if episode is not None:  # None: a life was lost, and the game continues
                    results.returns.append(float(episode["r"]))
                    results.lengths.append(int(episode["l"]))
                    if "is_success" in infos[index]:
                        results.successes.append(float(infos[index]["is_success"]))
                    left[index] -= 1
                    returns[index], lengths[index] = 0, 0
            for index in np.flatnonzero((left > 0) & (lengths >= (limit or np.inf))).tolist():
                results.stopped.append(float(returns[index]))
                left[index] = 0
            if display is not None and time.monotonic() - shown > SECONDS_BETWEEN_UPDATES:
                shown = time.monotonic()
                display.update(len(results.returns), f"{lengths.max():,} steps in the longest running episode")
    finally:
        if display is not None:
            display.close()
    return results


def _summary(run: Run, origin: Origin, episodes: int, limit: int | None, results: EpisodeResults) -> Evaluation:
    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    with np.errstate(invalid="ignore"):  # infinite returns
        deviation = float(np.std(results.returns)) if results.returns else None
    return Evaluation(
        run.path,
        origin,
        episodes,
        len(results.returns),
        mean(results.returns),
        deviation,
        mean(results.lengths),
        limit,
        mean(results.stopped),
        mean(results.successes),
    )


@dataclass(frozen=True)
class SupervisedEvaluation:
    """Scores of a supervised run's network.

    Attributes:
        run: The run's folder.
        origin: The network's source.
        scores: Scores by difficulty; "as in training" for the difficulties of the training.
    """

    run: Path
    origin: Origin
    scores: dict[str, Score]


def evaluate_supervised(
    run: Run, sequences: int = 100, difficulties: Sequence[Difficulty] = (), *, seed: int = 10_000, best: bool = False
) -> SupervisedEvaluation:
    """Scores a supervised run's network (see `load_run_network`) on fresh sequences.

    Args:
        run: A supervised run.
        sequences: Number of sequences per difficulty.
        difficulties: Difficulties, such as `{"length": 120}`; default: those of training and `validation.longer`.
        seed: Seed of the sequences.
        best: Use the network with the best validation instead of the last.

    Raises:
        InputError: no network, a damaged one, one of another task, or a difficulty unknown to the task.
    """
    check_counts(seed, episodes=sequences)
    settings = run.supervised_settings()
    task = settings.make_task()
    settings.import_core()
    network, origin = load_run_network(run, best=best)
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
