"""Environments in a process each, where one that crashes or hangs is named, and started anew if that is wanted."""

import multiprocessing
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.subproc_vec_env import _stack_obs, _worker

from ntm_rl.envs.seeding import SpawnsSeeds, spawn_seed
from ntm_rl.errors import InputError

CLOSING_SECONDS = 2.0  # for a worker to end by itself
STARTING_SECONDS = 120.0  # for a worker to import what its environment needs


class WorkerError(InputError):
    """An environment's process crashed, or did not answer in time."""


class Workers(SpawnsSeeds, SubprocVecEnv):
    """SB3's `SubprocVecEnv` with a limit to how long a worker may take.

    Args:
        makers: Make an environment each.
        timeout: Seconds that a reset or a step may take.
        restarts: Start a worker that failed anew, with another seed; its episode ends as if by a time limit. Else a
            failure is an error.
    """

    def __init__(self, makers: list[Callable[[], gym.Env[Any, Any]]], timeout: float, restarts: bool):
        self._makers, self._timeout, self._restarts = makers, timeout, restarts
        self._first_seeds: list[int | None] = [None] * len(makers)
        self._actions: list[Any] = [None] * len(makers)
        self._last: list[Any] = [None] * len(makers)
        self._failures = 0
        super().__init__(makers)

    def reset(self) -> VecEnvObs:
        """Starts an episode in every process.

        Raises:
            WorkerError: one crashed or hangs.
        """
        seeds = zip(self._seeds, self._first_seeds, strict=True)
        self._first_seeds = [old if new is None else new for new, old in seeds]
        self._actions = [None] * self.num_envs
        for index, remote in enumerate(self.remotes):
            self._send(remote, ("reset", (self._seeds[index], self._options[index])))
        answers = [self._failed(each, fail) if fail else each for each, fail in self._answers()]
        self._last, self.reset_infos = [list(each) for each in zip(*answers, strict=True)]
        self._reset_seeds()
        self._reset_options()
        return _stack_obs(tuple(self._last), self.observation_space)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Sends every process its action."""
        self._actions = list(actions)
        for remote, action in zip(self.remotes, actions, strict=True):
            self._send(remote, ("step", action))
        self.waiting = True

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for all processes.

        Raises:
            WorkerError: one crashed or hangs, and is not to be restarted.
        """
        rows = []
        for index, (answer, failure) in enumerate(self._answers()):
            if failure and not self._restarts:
                self._failed(index, failure)
            rows.append(self._restart(index, failure) if failure else answer)
        self.waiting = False
        observations, rewards, dones, infos, self.reset_infos = zip(*rows, strict=True)  # type: ignore[assignment]
        self._last = list(observations)
        return _stack_obs(observations, self.observation_space), np.stack(rewards), np.stack(dones), infos  # type: ignore[return-value]

    def close(self) -> None:
        """Ends all processes, those that hang too."""
        if self.closed:
            return
        for remote in self.remotes:
            self._send(remote, ("close", None))
        deadline = time.monotonic() + CLOSING_SECONDS
        for process, remote in zip(self.processes, self.remotes, strict=True):
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
            remote.close()
        self.closed = True

    def _answers(self) -> list[tuple[Any, str]]:
        """Returns of each process what it answered, or its number and why it did not."""
        deadline = time.monotonic() + self._timeout
        answers: list[tuple[Any, str]] = []
        for index, remote in enumerate(self.remotes):
            failure = ""
            try:
                if wait([remote], max(0.0, deadline - time.monotonic())):
                    answers.append((remote.recv(), ""))
                    continue
                failure = f"did not answer within {self._timeout:g} s"
            except (EOFError, OSError):
                self.processes[index].join(CLOSING_SECONDS)
                failure = f"ended with exit code {self.processes[index].exitcode}"
            answers.append((index, failure))
        return answers

    def _failed(self, index: int, failure: str) -> Any:
        action = None if self._actions[index] is None else np.asarray(self._actions[index]).tolist()
        raise WorkerError(
            f"environment {index} {failure}; its seed was {self._first_seeds[index]}, its last action {action}; what "
            "it printed stands above. env.restart_workers = true starts such environments anew"
        )

    def _restart(self, index: int, failure: str) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
        """Starts a process anew and returns a step that ends its episode."""
        self.processes[index].kill()
        self.processes[index].join()
        self.remotes[index].close()
        self._failures += 1
        context = multiprocessing.get_context("forkserver")
        remote, work_remote = context.Pipe()
        maker = CloudpickleWrapper(self._makers[index])
        process = context.Process(target=_worker, args=(work_remote, remote, maker), daemon=True)
        process.start()
        work_remote.close()
        self.remotes = tuple(remote if each == index else old for each, old in enumerate(self.remotes))
        self.processes[index] = process
        first = self._first_seeds[index]
        seed = None if first is None else spawn_seed(first, self._failures)
        self._send(remote, ("reset", (seed, self._options[index])))
        if not wait([remote], STARTING_SECONDS + self._timeout):
            self._failed(index, f"{failure}, and started anew it did not answer either")
        try:
            observation, reset_info = remote.recv()
        except (EOFError, OSError):
            self._failed(index, f"{failure}, and started anew it ended again")
        action = np.asarray(self._actions[index]).tolist()
        why = f"environment {index} {failure} at action {action}; started anew with seed {seed}"
        print(why, file=sys.stderr, flush=True)
        last = {"terminal_observation": self._last[index], "TimeLimit.truncated": True, "restarted": why}
        return observation, 0.0, True, last, reset_info

    @staticmethod
    def _send(remote: Any, message: Any) -> None:
        with suppress(OSError):  # a process that has ended is noticed where its answer is waited for
            remote.send(message)
