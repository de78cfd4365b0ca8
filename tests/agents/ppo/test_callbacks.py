"""Callbacks in real trainings: when they save, what they save, and how a training ends."""

import os
import resource
import signal
import threading
from collections import deque

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.env_util import make_vec_env

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.policy.files import load_agent, save_agent
from ntm_rl.agents.ppo.callbacks import BestAgentCallback, CheckpointCallback, StopOnSignal
from ntm_rl.agents.ppo.checkpoints import load_checkpoint
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.envs import EnvSettings
from ntm_rl.envs import make_vec_env as ours_make_vec_env

ROLLOUT = 32  # environment steps
SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=dict(pi=[8], vf=[8]))


def make_model(env=None) -> MemoryPPO:
    env = env or make_vec_env("CartPole-v1", 2, seed=0)
    return MemoryPPO("MlpNtmPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, policy_kwargs=SMALL)


def steps_saved(folder) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in sorted(folder.iterdir())]


def at(steps: int, action) -> BaseCallback:
    """Does something once that many environment steps are played."""

    def look(local_variables, _):
        if local_variables["self"].num_timesteps == steps:
            action()
        return True

    return ConvertCallback(look)


def test_callbacks_save_when_due_the_best_and_on_a_signal(tmp_path):
    model = make_model()
    best = BestAgentCallback(tmp_path / "best", episodes=3)
    checkpoints = CheckpointCallback(tmp_path / "checkpoints", every=64, keep=2, best=best)
    signals = SignalListener()
    stop = StopOnSignal(signals, checkpoints)

    def interrupt(local_variables, _):
        if local_variables["self"].num_timesteps == 5 * 32 + 8:
            signal.raise_signal(signal.SIGTERM)
        return True

    with signals:
        model.learn(10_000, CallbackList([checkpoints, best, stop, ConvertCallback(interrupt)]))
    assert signals.received is not None
    steps = [int(path.stem.removeprefix("step-")) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == [128, 192]  # at 64 too, which two newer ones replaced; 192 is where the rollout under way ended
    assert best.best > 0
    assert load_agent(tmp_path / "best", "cpu").card["extra"]["mean_return"] == best.best
    assert load_checkpoint(tmp_path / "checkpoints" / "step-000000000192.safetensors", model)["best"] == best.best


def test_a_checkpoint_is_written_at_the_end(tmp_path):
    make_model().learn(3 * ROLLOUT, CheckpointCallback(tmp_path, every=10**6, keep=1))
    assert steps_saved(tmp_path) == [3 * ROLLOUT]


def test_a_training_stopped_inside_a_rollout_is_not_saved_with_counters_that_disagree(tmp_path):
    stops = ConvertCallback(lambda local_variables, _: local_variables["self"].num_timesteps < 2 * ROLLOUT + 4)
    make_model().learn(
        10 * ROLLOUT, CallbackList([CheckpointCallback(tmp_path / "checkpoints", every=10**6, keep=1), stops])
    )
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_rollout_loses_nothing(tmp_path, number):
    checkpoints = CheckpointCallback(tmp_path, every=10**6, keep=1)
    with SignalListener() as signals:
        stop = StopOnSignal(signals, checkpoints)
        interrupt = at(2 * ROLLOUT - 4, lambda: os.kill(os.getpid(), number))
        make_model().learn(2 * ROLLOUT, CallbackList([checkpoints, stop, interrupt]))
    assert signals.received is number
    assert steps_saved(tmp_path) == [2 * ROLLOUT] == [checkpoints.saved_at]


def test_a_training_ended_by_a_signal_before_its_first_step_can_be_resumed(tmp_path):
    def new() -> MemoryPPO:
        return make_model(ours_make_vec_env(EnvSettings("CartPole-v1"), 2, 0))

    checkpoints = CheckpointCallback(tmp_path, every=ROLLOUT, keep=1)
    with SignalListener() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)  # for example while W&B starts
        new().learn(ROLLOUT, CallbackList([checkpoints, StopOnSignal(signals, checkpoints)]))
    assert steps_saved(tmp_path) == [0] == [checkpoints.saved_at]
    whole, resumed = new().learn(2 * ROLLOUT), new()
    load_checkpoint(latest_checkpoint(tmp_path), resumed)
    resumed.learn(2 * ROLLOUT, reset_num_timesteps=False)
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_second_signal_ends_the_training_at_once_and_old_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    checkpoints = CheckpointCallback(tmp_path, every=10**6, keep=1)
    model = make_model()

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), SignalListener() as signals:
        stop = StopOnSignal(signals, checkpoints)
        model.learn(10 * ROLLOUT, CallbackList([checkpoints, stop, at(ROLLOUT + 4, twice)]))
    assert model.num_timesteps == ROLLOUT + 4
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_trainings_in_other_threads_run_without_signals(tmp_path):
    def train():
        checkpoints = CheckpointCallback(tmp_path, every=10**6, keep=1)
        with SignalListener() as signals:
            make_model().learn(ROLLOUT, CallbackList([checkpoints, StopOnSignal(signals, checkpoints)]))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert steps_saved(tmp_path) == [ROLLOUT]


def test_a_full_disk_stops_a_training_with_one_error_and_the_old_checkpoint_intact(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))

    checkpoints = CheckpointCallback(tmp_path, every=ROLLOUT, keep=1)
    try:
        with pytest.raises(StorageError, match=r"step-000000000064.safetensors: cannot be written: File too large"):
            make_model().learn(10 * ROLLOUT, CallbackList([checkpoints, at(ROLLOUT + 4, fill)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps_saved(tmp_path) == [ROLLOUT]
    load_checkpoint(latest_checkpoint(tmp_path), make_model())


class Returns(BaseCallback):
    """Plays the part of the environment: the returns of each rollout's episodes are given."""

    def __init__(self, *means: float):
        super().__init__()
        self.means = list(means)

    def _on_rollout_end(self) -> None:
        self.model.ep_info_buffer.extend({"r": value, "l": 1, "t": 0.0} for value in 100 * [self.means.pop(0)])

    def _on_step(self) -> bool:
        return True


def best_returns(folder, model: MemoryPPO, best: BestAgentCallback, *means: float) -> list[float]:
    """The mean return of the agent on disk after each rollout."""
    found = []

    class Look(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            card = load_agent(folder, "cpu").card if folder.exists() else {"extra": {"mean_return": -np.inf}}
            found.append(card["extra"]["mean_return"])

    model.learn(ROLLOUT * len(means), CallbackList([Returns(*means), best, Look()]), reset_num_timesteps=False)
    return found


def test_the_best_agent_is_replaced_by_better_ones_alone(tmp_path):
    folder = tmp_path / "best"
    assert best_returns(folder, make_model(), BestAgentCallback(folder, 100), 1.0, 3.0, 2.0, 3.0, 4.0) == [
        1,
        3,
        3,
        3,
        4,
    ]


def test_too_few_episodes_are_no_record(tmp_path):
    folder = tmp_path / "best"
    assert best_returns(folder, make_model(), BestAgentCallback(folder, 101), 1.0, 3.0) == [-np.inf] * 2


def test_a_resumed_training_does_not_replace_a_better_agent_saved_after_its_checkpoint(tmp_path):
    model, folder = make_model(), tmp_path / "best"
    save_agent(model.policy, folder, extra={"mean_return": 5.0})
    assert best_returns(folder, model, BestAgentCallback(folder, 100, best=1.0), 3.0, 6.0) == [5, 6]


def test_a_damaged_best_agent_is_replaced(tmp_path):
    folder = tmp_path / "best"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"damaged")
    best = BestAgentCallback(folder, 100)
    make_model().learn(ROLLOUT, CallbackList([Returns(2.0), best]))
    assert load_agent(folder, "cpu").card["extra"]["mean_return"] == 2.0


class HarderAndHarder(BaseCallback):
    """Plays the part of the environment: each rollout has a level, and so many episodes of one return."""

    def __init__(self, *rollouts: tuple[int, float], episodes: int = 100):
        super().__init__()
        self.rollouts, self.episodes = list(rollouts), episodes

    def _on_rollout_end(self) -> None:
        level, value = self.rollouts.pop(0)
        curricula(self.training_env)[0].restore(level, [])
        episodes = [{"r": value, "l": 1, "t": 0.0} for _ in range(self.episodes)]
        self.model.ep_info_buffer = deque([*self.rest, *episodes], maxlen=100)
        self.rest = [*self.rest, *episodes]

    def _on_training_start(self) -> None:
        self.rest = list(self.model.ep_info_buffer)

    def _on_step(self) -> bool:
        return True


def harder_model() -> MemoryPPO:
    settings = EnvSettings("ntm_rl/Copy-v0", kwargs={"curriculum": "lookahead", "bits": 1, "max_length": 9})
    env = ours_make_vec_env(settings, 2, 0)
    return MemoryPPO("MlpNtmPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, policy_kwargs=SMALL)


def best_by_level(folder, model: MemoryPPO, best: BestAgentCallback, harder: HarderAndHarder) -> list:
    """Level and mean return of the agent on disk after each rollout."""
    found = []

    def look() -> None:
        extra = load_agent(folder, "cpu").card["extra"] if folder.exists() else {}
        found.append((extra.get("level"), extra.get("mean_return")))

    class Look(BaseCallback):
        def _on_rollout_end(self) -> None:
            look()

        def _on_step(self) -> bool:
            return True

    rollouts = len(harder.rollouts)
    model.learn(ROLLOUT * rollouts, CallbackList([harder, best, Look()]), reset_num_timesteps=False)
    return found


def test_returns_are_compared_within_a_level_and_a_higher_level_replaces_a_lower(tmp_path):
    folder = tmp_path / "best"
    harder = HarderAndHarder((1, 5.0), (1, 6.0), (2, 9.0), (2, 1.0), (2, 2.0), (2, 1.5))
    found = best_by_level(folder, harder_model(), BestAgentCallback(folder, 100), harder)
    # The 9 is of episodes during which the level was reached: no return of either level.
    assert found == [(1, 5), (1, 6), (1, 6), (2, 1), (2, 2), (2, 2)]


def test_a_resumed_training_still_waits_for_episodes_of_its_level(tmp_path):
    folder, model = tmp_path / "best", harder_model()
    first = BestAgentCallback(folder, 100)
    checkpoints = CheckpointCallback(tmp_path / "checkpoints", every=10**6, keep=1, best=first)
    model.learn(
        3 * ROLLOUT,
        CallbackList([checkpoints, HarderAndHarder((1, 5.0), (1, 7.0), (2, 9.0), episodes=50), first]),
    )
    resumed = harder_model()
    saved = load_checkpoint(latest_checkpoint(tmp_path / "checkpoints"), resumed)
    assert (saved["best"], saved["best_level"], saved["easier"]) == (6, 1, 100)
    best = BestAgentCallback(folder, 100, None, saved["best"], saved["best_level"], saved["easier"])
    found = best_by_level(folder, resumed, best, HarderAndHarder((2, 1.0), (2, 3.0), episodes=50))
    assert found == [(1, 6), (2, 2)]
