"""What runs in the process of one environment: it answers commands, with an error where one arises."""

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

from ntm_rl.envs.foreign import ForeignError, describe
from ntm_rl.errors import InputError

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
DEAF_TO = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has not all
Env = gym.Env[Any, Any]


def work(remote: Connection, parent_remote: Connection, maker: Any) -> None:
    """Makes an environment at the first command, and answers each with `(value, None)` or `(None, error)`.

    Ends when told to, or when the other side is gone; not by a signal that is meant for the training.
    """
    parent_remote.close()
    # A handler, and not SIG_IGN, which programs that the environment starts would inherit.
    before = {number: signal.signal(number, _unheeded) for number in DEAF_TO}
    if hasattr(os, "register_at_fork"):  # processes that the environment forks heed signals, as `Pool.terminate` needs
        os.register_at_fork(after_in_child=partial(_heed, before))
    np.random.seed()  # else all that are forked from one process would draw the same numbers
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
            answer: tuple[Any, Exception | None] = COMMANDS[command](env, data), None
        except BaseException as error:  # there is nothing else here that one could be meant for
            answer = None, _sendable(command, error)
        try:
            remote.send(answer)
        except OSError:
            break
        except Exception as error:  # whatever a value raises that cannot be pickled
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
    return env.get_wrapper_attr(name)(*arguments, **options)


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
    """Returns an error that another process can raise: its text, which holds the place, and one of few types."""
    if isinstance(error, InputError):
        kind = ForeignError if isinstance(error, ForeignError) else InputError
        return kind(str(error))
    if isinstance(error, AttributeError) and command in ("get_attr", "env_method"):
        return AttributeError(str(error))
    return ForeignError(f"{command} raised an error: {describe(error)}")


def _unsendable(command: str, error: Exception) -> Exception:
    text = f"what {command} returned cannot be sent from process to process: {type(error).__name__}: {error}"
    return AttributeError(text) if command == "get_attr" else ForeignError(text)


def _heed(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _unheeded(number: int, frame: FrameType | None) -> None:
    pass
