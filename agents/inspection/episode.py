"""Episodes with everything that can be shown of them: frames, actions, values and memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.inspection.evaluation import check_counts, close, played_settings, prepare, seeded
from ntm_rl.agents.inspection.frames import Frame
from ntm_rl.agents.inspection.memory_trace import FloatArray, MemoryRecorder, MemoryTrace
from ntm_rl.agents.inspection.naming import Part, action_names, labels_of, observation_parts
from ntm_rl.agents.inspection.observation_frames import ObservationDrawer
from ntm_rl.agents.inspection.playing import Step, play
from ntm_rl.agents.inspection.rendering import OBSERVATION_FPS, make_rendered_env
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.loading import RunAgent
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.envs.algorithmic.task import Batch, Difficulty
from ntm_rl.envs.factory import UseMasks
from ntm_rl.envs.sb3.making import make_vec_env

MAX_STEPS = 500
SEED = 10_000


@dataclass(frozen=True)
class DiscreteAction:
    """The distribution of a discrete action, or of one of its components.

    Attributes:
        name: "action", with the number of the component if there are several.
        labels: Names of the A values.
        probabilities: `[T, A]`.
        taken: Index of the value taken, `[T]`.
    """

    name: str
    labels: tuple[str, ...]
    probabilities: FloatArray
    taken: NDArray[np.int64]


@dataclass(frozen=True)
class NumericAction:
    """A Gaussian action of A numbers, or A independent bits.

    Attributes:
        labels: Names of the numbers.
        means: `[T, A]`; of bits, the probability of 1.
        deviations: `[T, A]`; None for bits.
        taken: The environment's action, `[T, A]`.
    """

    labels: tuple[str, ...]
    means: FloatArray
    deviations: FloatArray | None
    taken: FloatArray


@dataclass(frozen=True)
class Episode:
    """An episode of T steps.

    Attributes:
        observations: The numbers of each part of the observations, `[T, C]`.
        frames: The environment's frames, or image observations; empty without either.
        actions: The distributions of the actions.
        values: `[T]`.
        rewards: `[T]`.
        memory: The memory of the actor's core.
        ended: Whether it ended within the limit of steps.
        success: The environment's `is_success`; None if it does not report it.
    """

    observations: list[tuple[Part, FloatArray]]
    frames: list[Frame]
    actions: list[DiscreteAction] | NumericAction
    values: FloatArray
    rewards: FloatArray
    memory: MemoryTrace
    ended: bool
    success: bool | None


@dataclass(frozen=True)
class AnsweredSequence:
    """A sequence of an algorithmic task with a network's answers.

    Attributes:
        inputs: `[T, I]`.
        targets: `[T, O]`.
        answers: Probabilities of 1, `[T, O]`.
        mask: `[T]`, true in answer steps.
        memory: The memory of the network's core.
    """

    inputs: FloatArray
    targets: FloatArray
    answers: FloatArray
    mask: NDArray[np.bool_]
    memory: MemoryTrace

    @property
    def wrong(self) -> int:
        """Number of wrong bits in the answer steps."""
        return int(((self.answers > 0.5) != (self.targets > 0.5))[self.mask].sum())


def answer(network: SequenceNetwork, batch: Batch) -> AnsweredSequence:
    """Returns a network's answers to a batch of one sequence."""
    core = network.core
    recorder, state, outputs = MemoryRecorder(core), core.initial_state(1), []
    with torch.no_grad():
        for inputs in torch.from_numpy(batch.inputs).to(state.device).unsqueeze(1):
            output, after = core(inputs, state)
            recorder.add(state, after)
            outputs.append(output)
            state = after
        answers = torch.sigmoid(network.output(torch.cat(outputs)))[:, 0].cpu().numpy()
    parts = (batch.inputs[:, 0], batch.targets[:, 0], answers, batch.mask[:, 0])
    return AnsweredSequence(*parts, recorder.trace())


@dataclass(frozen=True)
class PlayOptions:
    """The episodes or sequences to play.

    Attributes:
        episodes: Number of episodes or sequences.
        seed: Seed of the environment and of sampled actions, or of the sequences.
        deterministic: Take the most likely action instead of a sample.
        best: Use the best agent of the training instead of the last.
        max_steps: Most steps in total.
        difficulty: Difficulty of the sequences; None: the hardest of the training.
    """

    episodes: int = 1
    seed: int = SEED
    deterministic: bool = True
    best: bool = False
    max_steps: int = MAX_STEPS
    difficulty: Difficulty | None = None

    def check(self) -> None:
        """Raises an `InputError` for a seed out of range or a count below 1."""
        check_counts(self.seed, episodes=self.episodes, max_steps=self.max_steps)


def play_run(
    agent: RunAgent, settings: PpoTrainingSettings, options: PlayOptions, *, with_frames: bool = True
) -> tuple[list[Episode], float]:
    """Plays episodes of a run's agent; returns them and their frames per second.

    Args:
        agent: The agent.
        settings: The settings of its run.
        options: The episodes to play.
        with_frames: Render the environment, if it can.

    Raises:
        InputError: the environment cannot be made, fails or does not fit the agent.
    """
    env_settings, seed = played_settings(settings.env_settings), options.seed
    if with_frames:
        made = make_rendered_env(env_settings, seed)
        env, render, fps = made.env, made.render, made.fps
    else:
        env, render, fps = make_vec_env(env_settings, 1, seed, training=False), None, OBSERVATION_FPS
    try:
        prepare(env, agent)
        with seeded(agent, seed, n_envs=1):
            return play_episodes(agent, env, render, options, settings.env.action_masks), fps
    finally:
        close(env)


def play_episodes(
    agent: LoadedAgent,
    env: VecEnv,
    render: Callable[[], Frame] | None,
    options: PlayOptions,
    use_masks: UseMasks = "auto",
) -> list[Episode]:
    """Plays episodes in a single environment; the last one may break off at the limit of steps.

    Raises:
        InputError: the environment failed, or the memory is too large to be recorded.
    """
    played: list[Episode] = []
    steps: list[Step] = []
    recorder = MemoryRecorder(agent.policy.core)
    limit, deterministic = options.max_steps, options.deterministic
    for step in play(agent, env, render, max_steps=limit, deterministic=deterministic, use_masks=use_masks):
        recorder.add(step.before, step.after)
        steps.append(step)
        if step.ended and "episode" in step.info:  # else a life was lost, and the game continues
            played.append(_episode(env, steps, recorder.trace()))
            steps, recorder = [], MemoryRecorder(agent.policy.core)
            if len(played) == options.episodes:
                return played
    return [*played, _episode(env, steps, recorder.trace())] if steps else played


def _episode(env: VecEnv, steps: Sequence[Step], memory: MemoryTrace) -> Episode:
    parts = observation_parts(env)
    drawer = ObservationDrawer(parts)
    frames = [step.frame for step in steps if step.frame is not None]
    if not frames and drawer.has_image:
        frames = [drawer.draw(step.observation) for step in steps]
    success = steps[-1].info.get("is_success")
    return Episode(
        [(part, np.stack([part.numbers(step.observation) for step in steps])) for part in parts if not part.is_image],
        frames,
        _actions(env, steps),
        np.array([step.value for step in steps], dtype=np.float32),
        np.array([step.reward for step in steps], dtype=np.float32),
        memory,
        steps[-1].ended,
        None if success is None else bool(success),
    )


def _actions(env: VecEnv, steps: Sequence[Step]) -> list[DiscreteAction] | NumericAction:
    space, names = env.action_space, action_names(env)
    distributions = [step.distribution for step in steps]
    samples = np.stack([step.sample for step in steps])
    first = distributions[0]
    if isinstance(first, torch.distributions.Categorical):
        return [
            DiscreteAction("action", labels_of(space, names), _stack(distributions, "probs"), samples.astype(np.int64))
        ]
    if isinstance(first, list):  # MultiDiscrete
        columns = zip(*distributions, strict=True)
        return [
            DiscreteAction(f"action {index}", _numbers(column[0].probs), _stack(column, "probs"), samples[:, index])
            for index, column in enumerate(columns)
        ]
    taken = np.stack([np.ravel(step.action) for step in steps]).astype(np.float32)
    labels = labels_of(space, names)
    if isinstance(first, torch.distributions.Bernoulli):
        return NumericAction(labels, _stack(distributions, "probs"), None, taken)
    return NumericAction(labels, _stack(distributions, "mean"), _stack(distributions, "stddev"), taken)


def _numbers(probabilities: torch.Tensor) -> tuple[str, ...]:
    return tuple(map(str, range(probabilities.shape[-1])))


def _stack(distributions: Sequence[Any], attribute: str) -> FloatArray:
    """Returns an attribute of distributions over a batch of one, `[T, A]`."""
    stacked: FloatArray = torch.cat([getattr(each, attribute) for each in distributions]).cpu().float().numpy()
    return stacked
