"""A wrapper that validates the results of an environment and reports its errors in one line."""

import warnings
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from ntm_rl.envs.foreign import ForeignError, describe, is_wrong_call
from ntm_rl.envs.wrappers.elements import MismatchError, conform, shape_of
from ntm_rl.errors import InputError

STEP = "observation, reward, terminated, truncated, info"


class Guarded(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Checks the results of an environment against Gymnasium's interface and its spaces.

    Shapes and types are checked at every step, bounds only in the first reset and step. `conform` converts observations
    that differ from the space only in axes of length 1, precision, or being lists or numbers.

    Args:
        env: The environment to wrap.
        label: Name in error messages, such as `env.id = 'CartPole-v1'`.
        index: Index of the sub-environment; None for a single environment.
        strict: False accepts what SB3 accepts: values out of bounds, and, with a warning, flags and rewards of other
            types. Errors of the environment's code then keep their type and get a note with `label` and step.

    Attributes:
        guard_label: `label`.

    Raises:
        InputError: the first reset or step violates Gymnasium's interface.
        ForeignError: a later one does, or the environment's code raised an error.
    """

    def __init__(self, env: gym.Env[Any, Any], label: str, index: int | None = None, strict: bool = True):
        RecordConstructorArgs.__init__(self, label=label, index=index, strict=strict)
        gym.Wrapper.__init__(self, env)
        self.guard_label, self._index, self._strict = label, index, strict
        self._space = env.observation_space
        self._steps = 0
        self._is_new = True  # until the first step
        self._converted: set[str] = set()  # values that were warned of

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the wrapped environment, so that `Monitor`'s and the user's remain in reach."""
        if name.startswith("_") or name == "env":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.env, name)

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute of the wrapped environment; `gym.Wrapper`'s method would set those in reach here."""
        return bool(self.env.set_wrapper_attr(name, value, force=force))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; only passes the arguments that are set."""
        given: dict[str, Any] = {"seed": seed, "options": options}
        try:
            result: Any = self.env.reset(**{key: value for key, value in given.items() if value is not None})
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if is_wrong_call(error):
                self._reject("reset does not accept seed and options; define reset(self, *, seed=None, options=None)")
            self._fail("reset", error)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            self._reject(f"reset returned {_values(result)}; it must return observation, info")
        if not isinstance(result[1], dict):
            self._reject(f"reset returned an info that is {shape_of(result[1])}; it must be a dict, {{}} for none")
        return self._checked_observation(result[0], "reset"), result[1]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the environment."""
        self._steps += 1
        try:
            result: Any = self.env.step(action)
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if is_wrong_call(error):
                self._reject("step does not accept an action; define step(self, action)")
            self._fail("step", error)
        if not isinstance(result, (tuple, list)) or len(result) != 5:
            self._reject(f"step returned {_values(result)}; it must return {STEP}")
        observation, reward, terminated, truncated, info = result
        if type(reward) is not float:
            reward = self._number(reward)
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated, truncated = self._flag("terminated", terminated), self._flag("truncated", truncated)
        if not isinstance(info, dict):
            self._reject(f"step returned an info that is {shape_of(info)}; it must be a dict, {{}} for none")
        observation = self._checked_observation(observation, "step")
        self._is_new = False
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """Renders the environment."""
        try:
            return self.env.render()
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail("render", error)

    def close(self) -> None:
        """Closes the environment; an error only warns."""
        try:
            self.env.close()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            warnings.warn(f"{self.guard_label}: close raised an error: {describe(error)}", stacklevel=2)

    def _checked_observation(self, observation: Any, method: str) -> Any:
        try:
            return conform(self._space, observation, self._is_new and self._strict)
        except MismatchError as error:
            self._reject(f"{method} returned an observation outside its space: {error}; correct the space or {method}")

    def _number(self, reward: Any) -> Any:
        if isinstance(reward, (int, float, np.number, np.bool_)):
            return reward
        array = np.asarray(reward)
        if self._accepts(array) and array.shape != ():
            self._warn_once("reward", reward, "float(reward)")
        elif array.shape != () or array.dtype.kind not in "biuf":
            self._reject(
                f"step returned a reward that is {shape_of(reward)}; it must be a number, such as float(reward)"
            )
        return float(array.item())

    def _flag(self, name: str, value: Any) -> bool:
        array = np.asarray(False if value is None and not self._strict else value)
        if self._accepts(array) and array.item() in (0, 1):
            if value is None or array.shape != () or array.dtype != np.bool_:
                self._warn_once(name, value, f"bool({name})")
        elif array.shape != () or array.dtype != np.bool_:
            self._reject(f"step returned {name} that is {shape_of(value)}; it must be True or False, as bool({name})")
        return bool(array.item())

    def _accepts(self, array: np.ndarray[Any, Any]) -> bool:
        return not self._strict and array.size == 1 and array.dtype.kind in "biuf"

    def _warn_once(self, name: str, value: Any, right: str) -> None:
        if name not in self._converted:
            self._converted.add(name)
            warnings.warn(f"{self._where()}: {name} is {shape_of(value)}, read as {right}; return that", stacklevel=2)

    def _reject(self, problem: str) -> NoReturn:
        if self._is_new:
            raise InputError(f"{self.guard_label}: {problem}")
        raise ForeignError(f"{self._where()}: {problem}")

    def _fail(self, method: str, error: BaseException) -> NoReturn:
        if not self._strict:
            error.add_note(f"{self._where()}: {method} raised this error")
            raise error
        raise ForeignError(f"{self._where()}: {method} raised an error: {describe(error)}") from error

    def _where(self) -> str:
        index = "" if self._index is None else f", environment {self._index}"
        return f"{self.guard_label}{index}, step {self._steps}"


def guard(env: gym.Env[Any, Any], label: str, index: int | None = None) -> gym.Env[Any, Any]:
    """Wraps the user's environment in `Guarded`, beneath the wrappers of `gymnasium.make`, which unpack its steps."""
    outer: gym.Wrapper[Any, Any, Any, Any] | None = None
    inner = env
    while isinstance(inner, (OrderEnforcing, PassiveEnvChecker, TimeLimit)):
        outer, inner = inner, inner.env
    guarded = Guarded(inner, label, index)
    if outer is None:
        return guarded
    outer.env = guarded
    return env


def _values(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, (tuple, list)) else f"one value, {shape_of(result)}"
