"""One process per environment, with errors that name a failed environment, and restarts."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from typing import Any, NamedTuple, NoReturn

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
from ntm_rl.envs.sb3.seeding import SpawnedSeedVecEnv, spawn_seed
from ntm_rl.envs.sb3.worker import run_worker

CLOSING_SECONDS = 2.0  # timeout for a worker to end
STARTING_SECONDS = 120.0  # timeout for the imports of an environment
MAX_RESTARTS = 5  # of a worker without a completed episode in between


class WorkerError(ForeignError):
    """A worker crashed or timed out, or its environment raised an error."""


class Reply(NamedTuple):
    """The reply of a worker, or its failure.

    Attributes:
        value: The result of the command.
        failure: The reason without a reply, as the predicate of "environment 3".
        error: The error that the command raised.
    """

    value: Any = None
    failure: str = ""
    error: Exception | None = None


class WorkerVecEnv(SpawnedSeedVecEnv, SubprocVecEnv):
    """SB3's `SubprocVecEnv` with error messages, timeouts and restarts.

    Workers ignore signals: Ctrl-C and Slurm signal the training and its workers alike, and the training ends its
    workers after the last checkpoint.

    Args:
        makers: Functions that make an environment each.
        timeout: Seconds that a reset or a step may take.
        restarts: Restart a failed worker with another seed and truncate its episode. After `MAX_RESTARTS` restarts
            without a completed episode, or with `restarts=False`, a failure raises.

    Raises:
        InputError: an environment cannot be made.
    """

    def __init__(self, makers: list[Callable[[], gym.Env[Any, Any]]], timeout: float, restarts: bool):
        self._makers, self._timeout, self._restarts = makers, timeout, restarts
        self._first_seeds: list[int | None] = [None] * len(makers)
        self._actions: list[Any] = [None] * len(makers)
        self._last: list[Any] = [None] * len(makers)
        self._failures = 0
        self._consecutive_failures = [0] * len(makers)
        self.waiting, self.closed = False, False
        started = [self._start(index) for index in range(len(makers))]
        self.remotes, self.processes = tuple(remote for remote, _ in started), [process for _, process in started]
        # At exit, multiprocessing would terminate and join the workers, which ignore SIGTERM.
        self._finalizer = Finalize(self, _kill, (self.processes,), exitpriority=10)
        try:
            [(observation_space, action_space), *_] = self._call("get_spaces", timeout=STARTING_SECONDS + timeout)
        except Exception:
            self.close()
            raise
        VecEnv.__init__(self, len(makers), observation_space, action_space)

    def reset(self) -> VecEnvObs:
        """Begins an episode in every sub-environment.

        Raises:
            WorkerError: one failed, crashed or hangs.
        """
        seeds = zip(self._seeds, self._first_seeds, strict=True)
        self._first_seeds = [old if new is None else new for new, old in seeds]
        self._actions = [None] * self.num_envs
        for index, remote in enumerate(self.remotes):
            self._send(remote, ("reset", (self._seeds[index], self._options[index])))
        replies = [self._value(index, reply) for index, reply in enumerate(self._replies(self.remotes))]
        self._last, self.reset_infos = [list(each) for each in zip(*replies, strict=True)]
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
        """Waits for all workers.

        Raises:
            WorkerError: one failed, crashed or hangs, and restarts are off or exhausted.
        """
        replies = self._replies(self.remotes)
        self.waiting = False
        rows = [self._row(index, reply) for index, reply in enumerate(replies)]
        observations, rewards, dones, infos, self.reset_infos = zip(*rows, strict=True)  # type: ignore[assignment]
        self._last = list(observations)
        return _stack_obs(observations, self.observation_space), np.stack(rewards), np.stack(dones), infos  # type: ignore[return-value]

    def close(self) -> None:
        """Ends all processes, and kills those that hang."""
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
        """Returns the rendered image of every sub-environment."""
        return self._call("render")

    def has_attr(self, attr_name: str) -> bool:
        """Returns whether all sub-environments have an attribute."""
        return all(self._call("has_attr", attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Returns an attribute of sub-environments.

        Raises:
            AttributeError: one lacks it, or its value cannot be pickled.
        """
        return self._call("get_attr", attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of sub-environments."""
        self._call("set_attr", (attr_name, value), indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of sub-environments.

        Raises:
            AttributeError: one lacks it.
        """
        return self._call("env_method", (method_name, method_args, method_kwargs), indices)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Returns whether sub-environments are wrapped with a class."""
        return self._call("is_wrapped", wrapper_class, indices)

    def _call(
        self, command: str, data: Any = None, indices: VecEnvIndices = None, timeout: float | None = None
    ) -> list[Any]:
        """Sends a command to some workers and returns their results."""
        chosen = range(len(self.remotes)) if indices is None else list(self._get_indices(indices))
        remotes = [self.remotes[index] for index in chosen]
        for remote in remotes:
            self._send(remote, (command, data))
        replies = self._replies(remotes, timeout)
        return [self._value(index, reply) for index, reply in zip(chosen, replies, strict=True)]

    def _replies(self, remotes: Sequence[Any], timeout: float | None = None) -> list[Reply]:
        """Returns the reply or the failure of each worker."""
        seconds = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        replies = []
        for remote in remotes:
            try:
                if not wait([remote], max(0.0, deadline - time.monotonic())):
                    replies.append(Reply(failure=f"did not respond within {seconds:g} s"))
                    continue
                value, error = remote.recv()
                replies.append(Reply(value, error=error))
            except (EOFError, OSError):
                process = self.processes[self.remotes.index(remote)]
                process.join(CLOSING_SECONDS)
                replies.append(Reply(failure=f"ended with exit code {process.exitcode}"))
        return replies

    def _value(self, index: int, reply: Reply, in_step: bool = False) -> Any:
        """Returns the result in a reply; raises its error or failure."""
        if reply.failure or isinstance(reply.error, ForeignError):
            advice = " Set env.restart_workers = true to restart such environments." if in_step else ""
            self._fail(index, reply, advice=advice)
        if reply.error is not None:
            raise reply.error
        return reply.value

    def _row(self, index: int, reply: Reply) -> Any:
        """Returns the step of a worker, or a truncated episode where it is restarted."""
        has_failed = reply.failure or isinstance(reply.error, ForeignError)
        if has_failed and self._restarts:
            return self._restart(index, reply)
        row = self._value(index, reply, in_step=True)
        if row[2]:
            self._consecutive_failures[index] = 0
        return row

    def _fail(self, index: int, reply: Reply, suffix: str = "", advice: str = "") -> NoReturn:
        printed = "; see its output above." if reply.failure else "."
        first, *rest = self._describe(index, reply).split("\n", 1)
        seed = self._first_seeds[index]
        details = "" if seed is None else f"; its seed was {seed}"
        if details and self._actions[index] is not None:
            details += f", its last action {self._last_action(index)}"
        raise WorkerError("\n".join([f"{first}{suffix}{details}{printed}{advice}", *rest])) from reply.error

    def _describe(self, index: int, reply: Reply) -> str:
        if reply.failure:
            return f"environment {index} {reply.failure}"
        name = f"environment {index},"  # in errors of `Guarded`
        return str(reply.error) if name in str(reply.error) else f"environment {index}: {reply.error}"

    def _last_action(self, index: int) -> Any:
        return None if self._actions[index] is None else np.asarray(self._actions[index]).tolist()

    def _restart(self, index: int, reply: Reply) -> tuple[Any, float, bool, dict[str, Any], dict[str, Any]]:
        """Restarts a worker and returns a step that truncates its episode."""
        self.processes[index].kill()
        self.processes[index].join()
        self.remotes[index].close()
        self._failures += 1
        self._consecutive_failures[index] += 1
        if self._consecutive_failures[index] > MAX_RESTARTS:
            self._fail(index, reply, f" after {MAX_RESTARTS} restarts without a completed episode")
        remote, process = self._start(index)
        self.remotes = tuple(remote if each == index else old for each, old in enumerate(self.remotes))
        self.processes[index] = process
        first = self._first_seeds[index]
        seed = None if first is None else spawn_seed(first, self._failures)
        self._send(remote, ("reset", (seed, self._options[index])))
        [reset_reply] = self._replies([remote], STARTING_SECONDS + self._timeout)
        observation, reset_info = self._value(index, reset_reply)
        first_line, *rest = self._describe(index, reply).split("\n", 1)
        summary = f"{first_line}, at action {self._last_action(index)}; restarted with seed {seed}"
        message = "\n".join([summary, *rest])
        print(message, file=sys.stderr, flush=True)
        last = {"terminal_observation": self._last[index], "TimeLimit.truncated": True, "restarted": message}
        return observation, 0.0, True, last, reset_info

    def _start(self, index: int) -> tuple[Any, Any]:
        """Starts a worker; returns the parent's end of its pipe and its process."""
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:  # import once for all workers
            context.set_forkserver_preload(["ntm_rl.envs.sb3.making"])
        remote, work_remote = context.Pipe()
        maker = CloudpickleWrapper(self._makers[index])
        # A daemon could not start processes; `_finalizer` ends the worker.
        process = context.Process(target=run_worker, args=(work_remote, remote, maker), daemon=False)
        process.start()
        work_remote.close()
        return remote, process

    @staticmethod
    def _send(remote: Any, message: Any) -> None:
        with suppress(OSError):  # `_replies` notices a process that has ended
            remote.send(message)


def _kill(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
