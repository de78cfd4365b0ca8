"""Environments in a process each, where one that fails, crashes or hangs is named, and started anew if wanted."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    CloudpickleWrapper,
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)
from stable_baselines3.common.vec_env.subproc_vec_env import _stack_obs

from ntm_rl.envs.foreign import ForeignError
from ntm_rl.envs.sb3.seeding import SpawnsSeeds, spawn_seed
from ntm_rl.envs.sb3.worker import work

CLOSING_SECONDS = 2.0  # for a worker to end by itself
STARTING_SECONDS = 120.0  # for a worker to import what its environment needs
MAX_RESTARTS = 5  # of one worker, without an episode of it that came to its end


class WorkerError(ForeignError):
    """An environment's process crashed, or did not answer in time, or its environment raised an error."""


class Answer(NamedTuple):
    """What a worker answered, or why it did not.

    Attributes:
        value: What it answered.
        failure: Why it did not, to be read after "environment 3".
        error: What it raised in place of an answer.
    """

    value: Any = None
    failure: str = ""
    error: Exception | None = None


class Workers(SpawnsSeeds, SubprocVecEnv):
    """SB3's `SubprocVecEnv` whose workers answer with their errors, within a time, and outlive signals to all.

    Ctrl-C and Slurm signal a training and its workers alike; it is the training that ends its workers, after the last
    checkpoint.

    Args:
        makers: Make an environment each.
        timeout: Seconds that a reset or a step may take.
        restarts: Start a worker that failed anew, with another seed; its episode ends as if by a time limit. Else a
            failure is an error, and so is one more than `MAX_RESTARTS` without an episode that ended.

    Raises:
        InputError: an environment that cannot be made.
    """

    def __init__(self, makers: list[Callable[[], gym.Env[Any, Any]]], timeout: float, restarts: bool):
        self._makers, self._timeout, self._restarts = makers, timeout, restarts
        self._first_seeds: list[int | None] = [None] * len(makers)
        self._actions: list[Any] = [None] * len(makers)
        self._last: list[Any] = [None] * len(makers)
        self._failures = 0
        self._in_a_row = [0] * len(makers)
        self.waiting, self.closed = False, False
        started = [self._start(index) for index in range(len(makers))]
        self.remotes, self.processes = tuple(remote for remote, _ in started), [process for _, process in started]
        # At the interpreter's end multiprocessing would ask the workers to end, which they do not heed, and wait.
        self._finalizer = Finalize(self, _kill, (self.processes,), exitpriority=10)
        try:
            [(observation_space, action_space), *_] = self._ask("get_spaces", timeout=STARTING_SECONDS + timeout)
        except Exception:
            self.close()
            raise
        VecEnv.__init__(self, len(makers), observation_space, action_space)

    def reset(self) -> VecEnvObs:
        """Starts an episode in every process.

        Raises:
            WorkerError: one failed, crashed or hangs.
        """
        seeds = zip(self._seeds, self._first_seeds, strict=True)
        self._first_seeds = [old if new is None else new for new, old in seeds]
        self._actions = [None] * self.num_envs
        for index, remote in enumerate(self.remotes):
            self._send(remote, ("reset", (self._seeds[index], self._options[index])))
        answers = [self._value(index, answer) for index, answer in enumerate(self._answers(self.remotes))]
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
            WorkerError: one failed, crashed or hangs, and is not to be restarted, or was too often.
        """
        answers = self._answers(self.remotes)
        self.waiting = False
        rows = [self._row(index, answer) for index, answer in enumerate(answers)]
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

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Returns what each copy shows."""
        return self._ask("render")

    def has_attr(self, attr_name: str) -> bool:
        """Returns whether all copies have an attribute."""
        return all(self._ask("has_attr", attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute of copies.

        Raises:
            AttributeError: one has none of that name, or one that cannot be sent from process to process.
        """
        return self._ask("get_attr", attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of copies."""
        self._ask("set_attr", (attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of copies.

        Raises:
            AttributeError: one has none of that name.
        """
        return self._ask("env_method", (method_name, method_args, method_kwargs), indices)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Returns whether copies are wrapped so."""
        return self._ask("is_wrapped", wrapper_class, indices)

    def _ask(
        self, command: str, data: Any = None, indices: VecEnvIndices = None, timeout: float | None = None
    ) -> list[Any]:
        """Sends a command to some workers and returns what they answer."""
        chosen = range(len(self.remotes)) if indices is None else list(self._get_indices(indices))
        remotes = [self.remotes[index] for index in chosen]
        for remote in remotes:
            self._send(remote, (command, data))
        answers = self._answers(remotes, timeout)
        return [self._value(index, answer) for index, answer in zip(chosen, answers, strict=True)]

    def _answers(self, remotes: Sequence[Any], timeout: float | None = None) -> list[Answer]:
        """Returns what the workers answered, or why they did not."""
        seconds = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        answers = []
        for remote in remotes:
            try:
                if not wait([remote], max(0.0, deadline - time.monotonic())):
                    answers.append(Answer(failure=f"did not answer within {seconds:g} s"))
                    continue
                value, error = remote.recv()
                answers.append(Answer(value, error=error))
            except (EOFError, OSError):
                process = self.processes[self.remotes.index(remote)]
                process.join(CLOSING_SECONDS)
                answers.append(Answer(failure=f"ended with exit code {process.exitcode}"))
        return answers

    def _value(self, index: int, answer: Answer) -> Any:
        """Returns what a worker answered; raises why it did not."""
        if answer.failure or isinstance(answer.error, ForeignError):
            self._fail(index, answer)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _row(self, index: int, answer: Answer) -> Any:
        """Returns a worker's step, or the end of its episode if it failed and is started anew."""
        has_failed = answer.failure or isinstance(answer.error, ForeignError)
        if has_failed and self._restarts:
            return self._restart(index, answer)
        row = self._value(index, answer)
        if row[2]:
            self._in_a_row[index] = 0
        return row

    def _fail(self, index: int, answer: Answer, why: str = "") -> Any:
        in_step = self._actions[index] is not None  # restarts are for steps alone
        advice = " env.restart_workers = true starts such environments anew" if in_step and not self._restarts else ""
        printed = "; what it printed stands above." if answer.failure else "."
        first, *rest = self._tell(index, answer).split("\n", 1)
        seed = self._first_seeds[index]
        details = "" if seed is None else f"; its seed was {seed}, its last action {self._last_action(index)}"
        raise WorkerError("\n".join([f"{first}{why}{details}{printed}{advice}", *rest])) from answer.error

    def _tell(self, index: int, answer: Answer) -> str:
        if answer.failure:
            return f"environment {index} {answer.failure}"
        named = f"environment {index},"  # so the guards of `make_env` name it
        return str(answer.error) if named in str(answer.error) else f"environment {index}: {answer.error}"

    def _last_action(self, index: int) -> Any:
        return None if self._actions[index] is None else np.asarray(self._actions[index]).tolist()

    def _restart(self, index: int, answer: Answer) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
        """Starts a process anew and returns a step that ends its episode."""
        self.processes[index].kill()
        self.processes[index].join()
        self.remotes[index].close()
        self._failures += 1
        self._in_a_row[index] += 1
        if self._in_a_row[index] > MAX_RESTARTS:
            self._fail(index, answer, f", and was started anew {MAX_RESTARTS} times before, with no whole episode")
        remote, process = self._start(index)
        self.remotes = tuple(remote if each == index else old for each, old in enumerate(self.remotes))
        self.processes[index] = process
        first = self._first_seeds[index]
        seed = None if first is None else spawn_seed(first, self._failures)
        self._send(remote, ("reset", (seed, self._options[index])))
        [again] = self._answers([remote], STARTING_SECONDS + self._timeout)
        observation, reset_info = self._value(index, again)
        first_line, *rest = self._tell(index, answer).split("\n", 1)
        told = f"{first_line}, at action {self._last_action(index)}; started anew with seed {seed}"
        why = "\n".join([told, *rest])
        print(why, file=sys.stderr, flush=True)
        last = {"terminal_observation": self._last[index], "TimeLimit.truncated": True, "restarted": why}
        return observation, 0.0, True, last, reset_info

    def _start(self, index: int) -> tuple[Any, Any]:
        """Starts a worker; returns this side of its pipe, and its process."""
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:  # imports, which take seconds, happen once for all workers
            context.set_forkserver_preload(["ntm_rl.envs.sb3.making"])
        remote, work_remote = context.Pipe()
        maker = CloudpickleWrapper(self._makers[index])
        # No daemon, which could not start processes; `_finalizer` ends it.
        process = context.Process(target=work, args=(work_remote, remote, maker), daemon=False)
        process.start()
        work_remote.close()
        return remote, process

    @staticmethod
    def _send(remote: Any, message: Any) -> None:
        with suppress(OSError):  # a process that has ended is noticed where its answer is waited for
            remote.send(message)


def _kill(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
