"""Environments in worker processes: errors, restarts and signals."""

import multiprocessing
import os
import signal
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ntm_rl.agents.ppo.vec_env_state import curricula, restore_curricula
from ntm_rl.envs import EnvSettings, VectorEnvAdapter, make_vec_env
from ntm_rl.envs.foreign import ForeignError
from ntm_rl.envs.sb3.workers import MAX_RESTARTS, WorkerError, WorkerVecEnv
from ntm_rl.errors import InputError


class Panic(BaseException):
    """As PyO3 raises for a panic in Rust."""


class Numbers(gym.Env):
    """Shows a number of NumPy's global generator; action 1 does what it was made for."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def __init__(self, how: str = ""):
        if how == "constructor":
            raise ConnectionRefusedError("no simulator")
        self.how, self.unsendable, self.limit = how, lambda: None, 3
        self.drawn = np.random.random()
        self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.array([self.drawn], np.float32), {}

    def step(self, action):
        self.count += 1
        if action and self.how == "raise":
            raise ValueError("boom")
        if action and self.how == "panic":
            raise Panic("boom")
        if action and self.how == "pool":
            with multiprocessing.get_context("fork").Pool(1) as pool:  # which ends its process by SIGTERM
                return np.array(pool.map(abs, [-1]), np.float32), 1.0, False, False, {}
        if action and self.how == "exit":
            os._exit(3)
        info = {"made": lambda: None} if action and self.how == "info" else {}
        return np.zeros(1, np.float32), 1.0, False, self.count == self.limit, info

    def add(self, one, other=1):
        return one + other


@pytest.fixture
def workers(request):
    made = []

    def make(how="", count=2, restarts=False):
        made.append(WorkerVecEnv([partial(Numbers, how)] * count, timeout=30, restarts=restarts))
        made[-1].seed(5)
        made[-1].reset()
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_attributes_and_methods_are_reached_and_missing_ones_do_not_end_a_process(workers):
    env = workers()
    assert env.has_attr("how") and not env.has_attr("curriculum")
    assert env.get_attr("limit") == [3, 3] and env.env_method("add", 1, other=2) == [3, 3]
    for name in ("curriculum", "unsendable"):
        with pytest.raises(AttributeError, match=name if name == "curriculum" else "cannot be sent"):
            env.get_attr(name)
    with pytest.raises(AttributeError, match="nothing"):
        env.env_method("nothing")
    env.set_attr("limit", 1, indices=[1])
    assert env.get_attr("limit") == [3, 1]
    assert env.step(np.zeros(2, np.int64))[2].tolist() == [False, True]


def test_an_error_of_an_environment_is_reported_with_its_line_and_action(workers):
    env = workers("raise")
    with pytest.raises(
        WorkerError, match=r"step raised an error: .*test_workers.py, line \d+, in step: ValueError: boom;"
    ):
        env.step(np.array([0, 1]))
    with pytest.raises(WorkerError, match="environment 1: the result of step cannot be sent"):
        workers("info").step(np.array([0, 1]))


def test_a_base_exception_is_reported_with_its_line(workers):
    with pytest.raises(WorkerError, match=r"environment 1: step .*test_workers.py, line \d+, in step: Panic: boom;"):
        workers("panic").step(np.array([0, 1]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_an_environment_in_a_process_may_start_processes(workers):
    assert workers("pool").step(np.array([0, 1]))[0].tolist() == [[0], [1]]


def test_an_error_of_a_constructor_does_not_advise_restarts():
    with pytest.raises(ForeignError) as caught:
        WorkerVecEnv([partial(Numbers, "constructor")], timeout=30, restarts=False)
    assert str(caught.value).endswith("ConnectionRefusedError: no simulator.")


def test_an_error_of_a_constructor_keeps_its_location():
    with pytest.raises(ForeignError, match=r"test_workers.py, line \d+, in __init__: ConnectionRefusedError: no sim"):
        WorkerVecEnv([partial(Numbers, "constructor")], timeout=30, restarts=True)
    with pytest.raises(InputError, match=r"env.id = 'CartPoll-v1': unknown environment"):
        make_vec_env(EnvSettings("CartPoll-v1", vectorization="subprocess"), 1, 0)


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_the_limit_of_restarts_counts_from_the_last_completed_episode(workers, how, capsys):
    env = workers(how, count=1, restarts=True)
    for _ in range(2):
        for _ in range(MAX_RESTARTS):
            assert env.step(np.array([1]))[2].all()
        ends = [bool(env.step(np.array([0]))[2][0]) for _ in range(3)]
        assert ends == [False, False, True]  # a completed episode
    for _ in range(MAX_RESTARTS):
        env.step(np.array([1]))
    with pytest.raises(WorkerError, match=f"after {MAX_RESTARTS} restarts without a completed episode"):
        env.step(np.array([1]))
    assert capsys.readouterr().err.count("restarted with seed") == 3 * MAX_RESTARTS


def test_workers_ignore_signals_and_end_with_the_training(workers):
    env = workers()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        for process in env.processes:
            os.kill(process.pid, number)
    time.sleep(0.2)
    assert env.step(np.zeros(2, np.int64))[1].tolist() == [1, 1]
    env.close()
    assert not any(process.is_alive() for process in env.processes)


def test_processes_do_not_share_numpys_random_numbers(workers):
    drawn = workers(count=3).get_attr("drawn")
    assert len(set(drawn)) == 3


def test_a_missing_attribute_does_not_end_gymnasiums_workers():
    mode = gym.vector.AutoresetMode.SAME_STEP
    env = VectorEnvAdapter(gym.vector.AsyncVectorEnv([Numbers, Numbers], autoreset_mode=mode))
    env.reset()
    assert curricula(env) == [] and not env.has_attr("nothing") and env.get_attr("limit") == [3, 3]
    assert env.step(np.zeros(2, np.int64))[1].tolist() == [1, 1]
    env.close()


@pytest.mark.parametrize("vectorization", ["native", "sync", "subprocess"])
def test_levels_of_curricula_are_restored_with_every_vectorization(vectorization):
    settings = EnvSettings("ntm_rl/Copy-v0", {"curriculum": "lookahead"}, vectorization=vectorization)
    env = make_vec_env(settings, 2, 0)
    try:
        restore_curricula(env, [(4, [0.5]), (6, [])])
        expected = [(4, [0.5])] if vectorization == "native" else [(4, [0.5]), (6, [])]
        assert [(each.level, each.errors) for each in curricula(env)] == expected
        restore_curricula(env, [(7, [])])  # as from one that all shared
        assert {each.level for each in curricula(env)} == {7}
    finally:
        env.close()
