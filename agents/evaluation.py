"""Plays whole episodes with a trained agent."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ntm_rl.agents.checkpoints import latest_checkpoint, load_checkpoint
from ntm_rl.agents.export import LoadedAgent, load_agent
from ntm_rl.agents.ppo import MemoryPPO
from ntm_rl.agents.runs import Run
from ntm_rl.agents.schema import Settings, SupervisedSettings
from ntm_rl.agents.supervised import Score, label, load_supervised, score
from ntm_rl.agents.training import make_model
from ntm_rl.envs.algorithmic.task import Difficulty
from ntm_rl.envs.vector import make_vec_env
from ntm_rl.errors import InputError

MAX_COPIES = 16


@dataclass(frozen=True)
class Evaluation:
    """Returns and lengths of whole episodes.

    Attributes:
        run: The run's folder.
        episodes: How many.
        mean_return: Their mean return, not normalised and not clipped.
        std_return: Its standard deviation.
        mean_length: Their mean length in steps.
    """

    run: Path
    episodes: int
    mean_return: float
    std_return: float
    mean_length: float


def evaluate(
    run: Run, episodes: int = 100, *, seed: int = 10_000, deterministic: bool = True, best: bool = False
) -> Evaluation:
    """Evaluates a run's agent: the finished one, else its latest checkpoint.

    Args:
        run: What to evaluate.
        episodes: Whole episodes to play.
        seed: Of the environments, another than the training's by default.
        deterministic: Take the most likely action instead of a sample.
        best: Take the agent with the best mean return of the training instead.

    Raises:
        InputError: no agent, or a damaged one.
    """
    if episodes < 1:
        raise InputError(f"episodes = {episodes}: must be at least 1")
    settings = run.settings()
    if isinstance(settings, SupervisedSettings):
        raise InputError(f"run = {str(run.path)!r}: a supervised run plays no episodes; use evaluate_supervised")
    env = make_vec_env(settings.env_settings, min(episodes, MAX_COPIES), seed, training=False)
    agent, env = load_run_agent(run, settings, env, best=best)
    with warnings.catch_warnings():
        # The adapter reports episodes itself, which SB3's look for a Monitor wrapper cannot see.
        warnings.filterwarnings("ignore", message="Evaluation environment is not wrapped")
        returns, lengths = evaluate_policy(
            agent,
            env,
            episodes,
            deterministic=deterministic,
            return_episode_rewards=True,
        )
    env.close()
    return Evaluation(run.path, episodes, float(np.mean(returns)), float(np.std(returns)), float(np.mean(lengths)))


def load_run_agent(run: Run, settings: Settings, env: VecEnv, *, best: bool) -> tuple[LoadedAgent | MemoryPPO, VecEnv]:
    """Loads a run's agent, finished, best, or else of its latest checkpoint, and the environment as it wants it.

    Raises:
        InputError: no agent, or a damaged one.
    """
    folder = run.best if best else run.agent
    if folder.is_dir():
        agent = load_agent(folder, settings.device)
        return agent, env.venv if isinstance(env, VecNormalize) else env  # the agent brings its own statistics
    if best:
        raise InputError(f"run = {str(run.path)!r}: it has no best agent yet")
    model = make_model(settings, env)
    load_checkpoint(latest_checkpoint(run.checkpoints), model, environments=False)
    return model, env


def evaluate_supervised(
    run: Run, sequences: int = 100, difficulties: Sequence[Difficulty] = (), *, seed: int = 10_000, best: bool = False
) -> dict[str, Score]:
    """Scores a supervised run's network on fresh sequences: the finished one, else its latest checkpoint.

    Args:
        run: What to evaluate.
        sequences: Of each difficulty.
        difficulties: Such as `{"length": 120}`; by default those of training and those of `validation.longer`.
        seed: Of the sequences.
        best: Take the network that was best in validation.

    Returns:
        Scores by difficulty, that of training under "as in training".

    Raises:
        InputError: no network, a damaged one, one of another task, or a difficulty that the task does not have.
    """
    if sequences < 1:
        raise InputError(f"episodes = {sequences}: must be at least 1")
    settings = run.settings()
    if not isinstance(settings, SupervisedSettings):
        raise InputError(f"run = {str(run.path)!r}: not a supervised run")
    task, network = settings.make_task(), load_supervised(run, settings, best=best)
    rng = np.random.default_rng(seed)
    chosen: list[Difficulty | None] = [*difficulties] or [None, *settings.validation.longer]
    return {
        "as in training" if difficulty is None else label(difficulty): score(
            network, task.sample(sequences, rng, difficulty), task
        )
        for difficulty in chosen
    }
