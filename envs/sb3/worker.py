"""The process of one environment: executes commands and replies with a value or an error."""

import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped

from ntm_rl.envs.foreign import ForeignError, describe, describe_call
from ntm_rl.errors import InputError

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
IGNORED_SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows lacks some
Env = gym.Env[Any, Any]


def run_worker(remote: Connection, parent_remote: Connection, maker: Any) -> None:
    """Makes the environment at the first command and replies to each with `(value, None)` or `(None, error)`.

    Ends at the command "close" or when the pipe is closed; ignores signals, which are meant for the training.
    """
    parent_remote.close()
    # A handler and not SIG_IGN, which child processes would inherit.
    before = {number: signal.signal(number, _ignore) for number in IGNORED_SIGNALS}
    if hasattr(os, "register_at_fork"):  # forked children handle signals again, as `Pool.terminate` needs
        os.register_at_fork(after_in_child=partial(_restore, before))
    np.random.seed()  # forked workers would otherwise share a random state
    env: Env | None = None
    while True:
        try:
            command, data = remote.recv()
        except (EOFError, OSError):
            break
        if command == "close":
            break
        try:
            env = maker.var() if env is None else env
            reply: tuple[Any, Exception | None] = COMMANDS[command](env, data), None
        except BaseException as error:  # also SystemExit and panics, which are reported to the training
            reply = None, _sendable(command, error)
        try:
            remote.send(reply)
        except OSError:
            break
        except Exception as error:  # the value cannot be pickled
            remote.send((None, _unsendable(command, error)))
    if env is not None:
        env.close()
    remote.close()


def _step(env: Env, action: Any) -> Any:
    observation, reward, terminated, truncated, info = env.step(action)
    reset_info: dict[str, Any] = {}
    info["TimeLimit.truncated"] = truncated and not terminated
    if terminated or truncated:
        info["terminal_observation"] = observation
        observation, reset_info = env.reset()
    return observation, reward, terminated or truncated, info, reset_info


def _reset(env: Env, data: Any) -> Any:
    seed, options = data
    return env.reset(seed=seed, **({"options": options} if options else {}))


def _has_attr(env: Env, name: str) -> bool:
    try:
        env.get_wrapper_attr(name)
    except AttributeError:
        return False
    return True


def _set_attr(env: Env, data: Any) -> None:
    name, value = data
    env.set_wrapper_attr(name, value)


def _env_method(env: Env, data: Any) -> Any:
    name, arguments, options = data
    method = env.get_wrapper_attr(name)
    try:
        return method(*arguments, **options)
    except InputError:
        raise
    except BaseException as error:
        raise ForeignError(describe_call(name, error)) from error


COMMANDS: dict[str, Callable[[Env, Any], Any]] = {
    "step": _step,
    "reset": _reset,
    "render": lambda env, _: env.render(),
    "get_spaces": lambda env, _: (env.observation_space, env.action_space),
    "has_attr": _has_attr,
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "set_attr": _set_attr,
    "env_method": _env_method,
    "is_wrapped": is_wrapped,
}


def _sendable(command: str, error: BaseException) -> Exception:
    """Returns an error that can be pickled (`InputError`, `ForeignError` or `AttributeError`) and has the location."""
    if isinstance(error, InputError):
        kind = ForeignError if isinstance(error, ForeignError) else InputError
        return kind(str(error))
    if isinstance(error, AttributeError) and command in ("get_attr", "env_method"):
        return AttributeError(str(error))
    return ForeignError(f"{command} raised an error: {describe(error)}")


def _unsendable(command: str, error: Exception) -> Exception:
    text = f"the result of {command} cannot be sent between processes: {type(error).__name__}: {error}"
    return AttributeError(text) if command == "get_attr" else ForeignError(text)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
