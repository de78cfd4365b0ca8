"""Environments that violate Gymnasium's interface or fail, each reported in one line."""

from asyncio import CancelledError
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from ntm_rl.envs import VectorEnvAdapter
from ntm_rl.envs.foreign import ForeignError, describe
from ntm_rl.envs.wrappers.guard import Guarded, guard
from ntm_rl.errors import InputError

SEEN = np.zeros(3, np.float32)


class Scripted(gym.Env):
    """Gives back what it is told to: at reset, at its first steps and at its later ones."""

    observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)

    def __init__(self, first=(SEEN, {}), step=(SEEN, 1.0, False, False, {}), later=None):
        self.first, self.steps, self.later, self.count = first, step, later, 0

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        self.count += 1
        answer = self.steps if self.count < 3 or self.later is None else self.later
        if isinstance(answer, BaseException):
            raise answer
        return answer


class NoSeed(Scripted):
    def reset(self):
        return self.first


class NoOptions(Scripted):
    def reset(self, seed=None):
        return self.first


class NoAction(Scripted):
    def step(self):
        return self.steps


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Scripted(SEEN), r"reset returned one value, an array of shape \(3,\).*; it must return observation, info"),
        (Scripted((SEEN, None)), "reset returned an info that is None; it must be a dict"),
        (NoSeed(), r"reset does not accept seed and options; define reset\(self, \*, seed=None, options=None\)"),
        (Scripted((SEEN + 2, {})), r"observation\[0\] = 2.0 is above its bound 1.0"),
        (Scripted(step=(SEEN, 1.0, True, {})), "step returned 4 values; .*reward, terminated, truncated, info"),
        (Scripted(step=None), "step returned one value, None"),
        (NoAction(), r"step does not accept an action; define step\(self, action\)"),
        (Scripted(step=(SEEN, np.ones(1), False, False, {})), r"reward that is an array of shape \(1,\)"),
        (Scripted(step=(SEEN, None, False, False, {})), "reward that is None"),
        (Scripted(step=(SEEN, "1", False, False, {})), "reward that is '1'; it must be a number"),
        (Scripted(step=(SEEN, 1.0, 0, False, {})), "terminated that is 0; it must be True or False"),
        (Scripted(step=(SEEN, 1.0, False, None, {})), "truncated that is None"),
        (Scripted(step=(SEEN, 1.0, False, False, [])), "info that is a list of 0"),
        (Scripted(step=(np.zeros(4), 1.0, False, False, {})), r"observation has shape \(4,\)"),
    ],
)
def test_a_violation_at_the_start_is_an_input_error(env, message):
    env = Guarded(env, "env.id = 'Mine-v0'", 0)
    with pytest.raises(InputError, match=f"^env.id = 'Mine-v0': .*{message}") as error:
        env.reset(seed=0)
        env.step(0)
    assert not isinstance(error.value, ForeignError) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "later",
    [
        (np.zeros(2), 1.0, False, False, {}),
        (np.array(["a", "b", "c"]), 1.0, False, False, {}),
        (None, 1.0, True, False, {}),
        (SEEN, 1.0, True, False, None),
        (SEEN, 1.0, True, {}),
    ],
)
def test_a_later_violation_is_a_foreign_error_with_its_step(later):
    env = Guarded(Scripted(later=later), "env.id = 'Mine-v0'", 4)
    env.reset(seed=0)
    env.step(0), env.step(0)
    with pytest.raises(ForeignError, match=r"^env.id = 'Mine-v0', environment 4, step 3: step returned "):
        env.step(0)


def test_harmless_deviations_are_accepted():
    env = Guarded(Scripted(([0, 0, 1], {}), (SEEN[:, None], np.array(2), np.bool_(True), np.array(False), {})), "mine")
    np.testing.assert_array_equal(env.reset()[0], np.array([0, 0, 1], np.float32))
    observation, reward, terminated, truncated, _ = env.step(0)
    assert observation.shape == (3,) and reward == 2.0 and (terminated, truncated) == (True, False)
    assert Guarded(NoOptions(), "mine").reset(seed=3)[1] == {}


def test_bounds_are_only_checked_in_the_first_step():
    env = Guarded(Scripted(later=(SEEN + 2, 1.0, False, False, {})), "mine")
    env.reset()
    assert [float(env.step(0)[0][0]) for _ in range(3)] == [0, 0, 2]


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(),
        ConnectionResetError("peer"),
        OSError(5, "Input/output error"),
        ValueError("x"),
        KeyError("k"),
        SystemExit(3),
        CancelledError(),  # no Exception, as PyO3's panics
        StopIteration(),
        MemoryError(),
        TypeError("f() takes 1 positional argument but 2 were given"),
    ],
)
def test_an_error_of_an_environment_keeps_its_location(error):
    env = Guarded(Scripted(later=error), "env.id = 'Mine-v0'", 1)
    env.reset()
    env.step(0), env.step(0)
    place = rf"test_guard.py, line {raising_line()}, in step: {type(error).__name__}"
    with pytest.raises(ForeignError, match=rf"environment 1, step 3: step raised an error: .*{place}"):
        env.step(0)


def raising_line() -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == "raise answer")


def test_input_errors_pass_the_guard_unchanged():
    env = Guarded(Scripted(step=InputError("seed = -1")), "mine")
    env.reset()
    with pytest.raises(InputError, match=r"^seed = -1$"):
        env.step(0)


def test_an_error_in_close_is_a_warning():
    class Stuck(Scripted):
        def close(self):
            raise RuntimeError("cannot close")

    with pytest.warns(
        UserWarning, match="close raised an error: .*test_guard.py, line .*in close: RuntimeError: cannot"
    ):
        Guarded(Stuck(), "mine").close()


def test_a_time_limit_does_not_hide_errors_of_the_wrapped_environment():
    env = guard(TimeLimit(OrderEnforcing(Scripted(step=(SEEN, 1.0, True, {}))), 5), "mine")
    env.reset()
    with pytest.raises(InputError, match="mine: step returned 4 values"):
        env.step(0)


def test_errors_list_callers_in_the_users_code_but_not_in_libraries():
    def outer():
        np.zeros(3).reshape(inner(2))

    def inner(size):
        return np.linalg.inv(np.zeros((size, size)))

    with pytest.raises(np.linalg.LinAlgError) as error:
        outer()
    first, *callers = describe(error.value).splitlines()
    assert "test_guard.py" in first and first.endswith("in inner: LinAlgError: Singular matrix")
    assert callers[0].strip().startswith("called from ") and callers[0].endswith("in outer")


def test_an_error_of_a_vector_environment_keeps_its_location():
    envs = gym.vector.SyncVectorEnv(
        [lambda: Scripted(step=ValueError("boom"))], autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    adapter = VectorEnvAdapter(envs)
    adapter.reset()
    with pytest.raises(
        ForeignError, match=r"step raised an error: .*test_guard.py, line .*, in step: ValueError: boom"
    ):
        adapter.step(np.array([0]))
