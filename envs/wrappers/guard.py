"""A wrapper between an environment's own code and everything else: what it raises and returns is told in one line."""

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
    """Checks what an environment returns against Gymnasium's interface and its spaces, and tells where it fails.

    Shapes and types are checked at every step, the bounds of the first reset and the first step alone. Observations
    that are right but for axes of length 1, their precision, or being lists or numbers, are given the space's form.

    Args:
        env: The environment.
        label: What it is called in errors, such as `env.id = 'CartPole-v1'`.
        index: Which of several copies it is, None if there is one.
        bounds: Check bounds at all.

    Raises:
        InputError: in the first reset and step, what an environment returned is not what Gymnasium says.
        ForeignError: it is so later, or the environment's code raised an error.
    """

    def __init__(self, env: gym.Env[Any, Any], label: str, index: int | None = None, bounds: bool = True):
        RecordConstructorArgs.__init__(self, label=label, index=index, bounds=bounds)
        gym.Wrapper.__init__(self, env)
        self._label, self._index, self._bounds = label, index, bounds
        self._space = env.observation_space
        self._steps = 0
        self._is_new = True  # its first reset and step are still to come

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets; environments that take no options may still be reset without any."""
        given: dict[str, Any] = {"seed": seed, "options": options}
        try:
            result: Any = self.env.reset(**{key: value for key, value in given.items() if value is not None})
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if is_wrong_call(error):
                self._refuse("reset does not take a seed and options; Gymnasium's is reset(*, seed=None, options=None)")
            raise self._failure("reset", error) from error
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            self._refuse(f"reset returned {_values(result)}; Gymnasium's are observation, info")
        if not isinstance(result[1], dict):
            self._refuse(f"reset returned an info that is {shape_of(result[1])}; it must be a dict, {{}} for none")
        return self._observed(result[0], "reset"), result[1]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps."""
        self._steps += 1
        try:
            result: Any = self.env.step(action)
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:
            if is_wrong_call(error):
                self._refuse("step does not take one action; Gymnasium's is step(action)")
            raise self._failure("step", error) from error
        if not isinstance(result, (tuple, list)) or len(result) != 5:
            self._refuse(f"step returned {_values(result)}; Gymnasium's are {STEP}")
        observation, reward, terminated, truncated, info = result
        if type(reward) is not float:
            reward = self._number(reward)
        if type(terminated) is not bool or type(truncated) is not bool:
            terminated, truncated = self._flag("terminated", terminated), self._flag("truncated", truncated)
        if not isinstance(info, dict):
            self._refuse(f"step returned an info that is {shape_of(info)}; it must be a dict, {{}} for none")
        observation = self._observed(observation, "step")
        self._is_new = False
        return observation, reward, terminated, truncated, info

    def render(self) -> Any:
        """Renders."""
        try:
            return self.env.render()
        except (InputError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise self._failure("render", error) from error

    def close(self) -> None:
        """Closes; an error in it is a warning, for the work is done."""
        try:
            self.env.close()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            warnings.warn(f"{self._label}: close raised an error: {describe(error)}", stacklevel=2)

    def _observed(self, observation: Any, method: str) -> Any:
        try:
            return conform(self._space, observation, self._is_new and self._bounds)
        except MismatchError as error:
            self._refuse(f"{method} returned what its observation_space is not: {error}; correct the space or {method}")

    def _number(self, reward: Any) -> Any:
        if isinstance(reward, (int, float, np.number, np.bool_)):
            return reward
        array = np.asarray(reward)
        if array.shape != () or array.dtype.kind not in "biuf":
            self._refuse(
                f"step returned a reward that is {shape_of(reward)}; it must be a number, such as float(reward)"
            )
        return float(array)

    def _flag(self, name: str, value: Any) -> bool:
        array = np.asarray(value)
        if array.shape != () or array.dtype != np.bool_:
            self._refuse(f"step returned {name} that is {shape_of(value)}; it must be True or False, as bool({name})")
        return bool(array)

    def _refuse(self, problem: str) -> NoReturn:
        if self._is_new:
            raise InputError(f"{self._label}: {problem}")
        raise ForeignError(f"{self._where()}: {problem}")

    def _failure(self, method: str, error: BaseException) -> ForeignError:
        return ForeignError(f"{self._where()}: {method} raised an error: {describe(error)}")

    def _where(self) -> str:
        copy = "" if self._index is None else f", environment {self._index}"
        return f"{self._label}{copy}, step {self._steps}"


def guard(env: gym.Env[Any, Any], label: str, index: int | None = None) -> gym.Env[Any, Any]:
    """Puts a `Guarded` around what a user made, beneath `gymnasium.make`'s own wrappers, which unpack steps unseen."""
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
