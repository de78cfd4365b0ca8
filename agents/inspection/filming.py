"""Environments that show themselves: which way of asking for pictures one answers."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.inspection.frames import FrameError, Frames, Picture
from ntm_rl.envs.factory import EnvSettings, make_env
from ntm_rl.envs.native import is_atari
from ntm_rl.envs.sb3.making import SpawnedSeedDummyVecEnv, make_vec_env
from ntm_rl.errors import InputError

FPS = 15.0  # of Atari's 60 frames a second, each step shows one in four; of others where they say nothing
MAX_FPS = 240.0
MODES = ("rgb_array", "rgb_array_list")


@dataclass(frozen=True)
class Filmed:
    """An environment of one copy that shows itself.

    Attributes:
        env: The environment.
        fps: Its pictures a second.
        show: Returns its present picture.
        frames: Where its pictures go through.
    """

    env: VecEnv
    fps: float
    show: Callable[[], Picture]
    frames: Frames


def make_filmed(settings: EnvSettings, seed: int) -> Filmed:
    """Makes one copy of an environment that shows itself.

    It is asked for pictures by `render_mode`, and, where it takes none, whether it draws without. The first way that
    gives a picture after a reset is taken.

    Raises:
        InputError: it cannot be made, or shows nothing; says what came of each way.
    """
    frames = Frames()
    if is_atari(settings.id):
        env = make_vec_env(settings, 1, seed, training=False)
        return Filmed(env, FPS, lambda: frames.picture(env.get_images()[0]), frames)
    single = _first_that_draws(settings)

    def show() -> Picture:
        try:
            return frames.picture(_call(single.render))
        except FrameError as error:
            raise InputError(f"env.id = {settings.id!r}: {error}") from error

    vector = SpawnedSeedDummyVecEnv([lambda: Monitor(single)])
    vector.seed(seed)
    return Filmed(vector, _fps(single), show, frames)


def _first_that_draws(settings: EnvSettings) -> gym.Env[Any, Any]:
    failures = []
    for kwargs in _ways(settings.kwargs):
        mode = kwargs.get("render_mode")
        way = "without a render_mode" if mode is None else f"with render_mode = {mode!r}"
        is_last_way = mode not in MODES
        try:
            env = _make_quietly(replace(settings, kwargs=kwargs))
        except InputError as error:
            if is_last_way:
                raise  # it cannot be made without pictures either
            failures.append(f"{way}: {error}")
            continue
        try:
            _call(env.reset)
            Frames().picture(_call(env.render))
        except FrameError as error:
            failures.append(f"{way}: {error}")
            with suppress(Exception):  # the next way may do
                env.close()
            continue
        asked = settings.kwargs.get("render_mode")
        if asked not in (None, mode):
            print(f"note: env.kwargs.render_mode = {asked!r} in the run's config: filmed {way}", file=sys.stderr)
        return env
    told = "".join(f"\n  {failure}" for failure in failures)
    raise InputError(f"env.id = {settings.id!r}: it shows no pictures:{told}")


def _ways(kwargs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the keyword arguments with each way of asking for pictures; the last is to ask for none."""
    for mode in MODES:
        yield {**kwargs, "render_mode": mode}
    yield {key: value for key, value in kwargs.items() if key != "render_mode"}


def _make_quietly(settings: EnvSettings) -> gym.Env[Any, Any]:
    with warnings.catch_warnings():
        # Whether it draws is looked at, whatever its metadata says.
        warnings.filterwarnings("ignore", message=".*not in the possible render_modes")
        return make_env(settings)


def _call(method: Callable[[], Any]) -> Any:
    """Calls a method of an environment.

    Raises:
        FrameError: it raised an error, which its guard tells with its place.
    """
    try:
        return method()
    except InputError as error:
        raise FrameError(str(error)) from error


def _fps(env: gym.Env[Any, Any]) -> float:
    """Returns the pictures a second that an environment asks for, or the usual number where it says nothing useful."""
    asked = (env.metadata or {}).get("render_fps")
    if asked is None:
        return FPS
    try:
        fps = float(asked)
    except (TypeError, ValueError):
        fps = 0.0
    if 0 < fps <= MAX_FPS:
        return fps
    print(f"note: metadata['render_fps'] = {asked!r}: {FPS:g} pictures a second are shown", file=sys.stderr)
    return FPS
