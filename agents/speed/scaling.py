"""The scaling benchmark: a training on several processes beside one, and a prediction for more."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.parallel.joining import join
from ntm_rl.agents.parallel.ranks import Ranks
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.ppo.making import make_model, with_sizes
from ntm_rl.agents.ppo.probe import probe_environment
from ntm_rl.agents.runs.signals import end_on_signals, end_with_parent
from ntm_rl.agents.settings.loading import check_settings
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.speed.cost_model import Costs, Line, Prediction, Sizes, predict
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

ROLLOUTS = 5  # measured, after one for warm-up
EXCHANGES = 30
PARTS = (1, 2, 4)
ROLLOUT_EXCHANGES = 11  # episodes, advantages, agreements and metrics of a rollout
MORE_RANKS = (8, 64, 512)


@dataclass(frozen=True)
class Measured:
    """Median seconds of a rollout and of its updates."""

    rollout: float
    update: float


@dataclass(frozen=True)
class Scaling:
    """Result of the scaling benchmark.

    Attributes:
        sizes: Sizes of the training.
        costs: What the predictions are made from.
        alone: The training in one process.
        together: The training on `ranks` processes.
        ranks: Number of processes.
        divided: Predictions of the training divided among 1, `ranks` and more processes, up to one environment each.
        grown: Predictions of a training with that number of environments on each process.
    """

    sizes: Sizes
    costs: Costs
    alone: Measured
    together: Measured
    ranks: int
    divided: list[Prediction]
    grown: list[Prediction]

    def speed(self, measured: Measured) -> float:
        """Returns the environment steps per second."""
        return self.sizes.steps / (measured.rollout + measured.update)


Work = list[tuple[Sizes, Measured]]


class _Timer(BaseCallback):
    """Measures rollouts, and the updates between them."""

    def __init__(self) -> None:
        super().__init__()
        self._rollouts: list[float] = []
        self._updates: list[float] = []
        self._last = time.perf_counter()

    def _lap(self, seconds: list[float]) -> None:
        now = time.perf_counter()
        seconds.append(now - self._last)
        self._last = now

    def _on_rollout_start(self) -> None:
        self._lap(self._updates)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._lap(self._rollouts)

    def _on_training_end(self) -> None:
        self._lap(self._updates)

    @property
    def measured(self) -> Measured:
        """The medians without the first rollout, and without the time before it."""
        return Measured(median(self._rollouts[1:]), median(self._updates[2:]))


def measure_scaling(settings: PpoTrainingSettings, more_ranks: Sequence[int] = MORE_RANKS) -> Scaling | None:
    """Measures a training alone and on the ranks that a launcher started.

    All ranks call it; those other than the first get None.

    Raises:
        InputError: one process only, or environments that cannot be divided.
    """
    ranks = join()
    if ranks.size == 1:
        raise InputError("processes = 1: must be at least 2; the training in one process is measured as well")
    limit = probe_environment(settings.env_settings, settings.seed).episode_limit
    settings = with_sizes(settings, limit, ranks.size)
    assert isinstance(settings.n_envs, int)
    if settings.n_envs % ranks.size:
        raise InputError(f"n_envs = {settings.n_envs}: must be a multiple of the number of processes, {ranks.size}")
    work = _in_own_process(settings) if ranks.is_first else None
    ranks.any(False)  # the others wait
    model = make_model(settings, _make_env(settings, settings.n_envs // ranks.size))
    together = _measure(model)
    gradient = sum(each.numel() * each.element_size() for each in model.policy.parameters())
    link = [(size, _all_reduce_seconds(ranks, size)) for size in (1024, gradient)]
    if work is None:
        return None
    (sizes, alone), costs = work[0], _costs(work).of_link(ranks.size, link)
    counts = [1, ranks.size, *(each for each in more_ranks if each > ranks.size)]
    divided = [predict(sizes, costs, each) for each in counts if each <= sizes.n_envs]
    return Scaling(
        sizes,
        costs,
        alone,
        together,
        ranks.size,
        divided,
        [predict(sizes.times(each), costs, each) for each in counts],
    )


def _in_own_process(settings: PpoTrainingSettings) -> Work:
    """Measures the training in a process that is none of the ranks."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_work, args=(sender, settings.model_dump(), settings.env.id))
    process.start()
    sender.close()
    try:
        work: Work | InputError = receiver.recv()
    except EOFError as error:
        raise InputError("the process that measures the training alone has ended, see its output above") from error
    process.join()
    if isinstance(work, InputError):
        raise work
    return work


def _send_work(sender: Connection, data: dict[str, Any], name: str) -> None:
    del os.environ["TORCHELASTIC_RUN_ID"]  # `join` then returns a single rank
    end_on_signals()
    end_with_parent()
    try:
        sender.send(_measure_work(data, name))
    except InputError as error:
        sender.send(error)


def _measure_work(data: dict[str, Any], name: str) -> Work:
    """Measures a training with all of its environments, a half and a quarter, in equally many minibatches.

    Raises:
        InputError: too small to be halved.
    """
    settings, work = check_settings(data, name), Work()
    assert isinstance(settings, PpoTrainingSettings)
    length = settings.ppo.sequence_length
    assert isinstance(settings.n_envs, int) and isinstance(settings.ppo.batch_size, int) and isinstance(length, int)
    parts = [part for part in PARTS if not (settings.n_envs % part or settings.ppo.batch_size % (part * length))]
    if len(parts) < 2 and settings.n_envs % 2:
        raise InputError(f"n_envs = {settings.n_envs}: must be even, as half of the training is measured too")
    if len(parts) < 2:
        raise InputError(
            f"ppo.batch_size = {settings.ppo.batch_size}: must be a multiple of 2 * ppo.sequence_length = "
            f"{2 * length}, as half of the training is measured too"
        )
    for part in parts:
        n_envs, batch_size = settings.n_envs // part, settings.ppo.batch_size // part
        ppo = settings.ppo.model_copy(update={"batch_size": batch_size})
        model = make_model(settings.model_copy(update={"ppo": ppo}), _make_env(settings, n_envs))
        work.append((_sizes(model, batch_size, settings.policy.critic), _measure(model)))
    return work


def _sizes(model: MemoryPPO, batch_size: int, critic: str) -> Sizes:
    minibatches = max(1, model.n_envs * model.n_steps // batch_size)
    # Of an epoch: sequences that another rank learns from, and gradient norms of actor and critic in a shared core.
    of_epoch = 1 + (minibatches if critic == "shared" else 0)
    return Sizes(
        model.n_envs,
        model.n_steps,
        model.n_epochs,
        minibatches,
        batch_size / model.rollout.sequence_length,
        sum(each.numel() * each.element_size() for each in model.policy.parameters()),
        ROLLOUT_EXCHANGES + model.n_epochs * of_epoch,
    )


def _costs(work: Work) -> Costs:
    steps = [measured.rollout / sizes.n_steps for sizes, measured in work]
    updates = [measured.update / (sizes.n_epochs * sizes.minibatches) for sizes, measured in work]
    return Costs(
        Line.fit([sizes.n_envs for sizes, _ in work], steps), Line.fit([sizes.sequences for sizes, _ in work], updates)
    )


def _make_env(settings: PpoTrainingSettings, n_envs: int) -> VecEnv:
    return make_vec_env(settings.env_settings, n_envs, settings.seed, gamma=settings.ppo.gamma)


def _measure(model: MemoryPPO) -> Measured:
    timer = _Timer()
    model.learn((ROLLOUTS + 1) * model.n_steps * model.all_envs, timer)
    env = model.get_env()
    assert env is not None
    env.close()
    return timer.measured


def _all_reduce_seconds(ranks: Ranks, size: int) -> float:
    tensor, seconds = torch.zeros(size // 4), []
    for _ in range(EXCHANGES):
        start = time.perf_counter()
        ranks.total(tensor)
        seconds.append(time.perf_counter() - start)
    return median(seconds)
