"""Makes environments that render: tries the render modes until one returns an image."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.inspection.frames import Frame, FrameConverter, FrameError
from ntm_rl.envs.factory import EnvSettings, make_env
from ntm_rl.envs.native import is_atari
from ntm_rl.envs.sb3.making import SpawnedSeedDummyVecEnv, make_vec_env
from ntm_rl.errors import InputError

FPS = 15.0  # of Atari, with 60 frames per second and a frame skip of 4; also the default of other environments
MAX_FPS = 240.0
MODES = ("rgb_array", "rgb_array_list")


@dataclass(frozen=True)
class RenderedEnv:
    """A single environment that renders.

    Attributes:
        env: The environment.
        fps: Frames per second.
        render: Returns the current frame as RGB.
        converter: Converts its frames.
    """

    env: VecEnv
    fps: float
    render: Callable[[], Frame]
    converter: FrameConverter


def make_rendered_env(settings: EnvSettings, seed: int) -> RenderedEnv:
    """Makes a single environment that renders.

    Each render mode is tried, then none; the first that returns an image after a reset is used.

    Raises:
        InputError: the environment cannot be made or does not render; lists the failure of each render mode.
    """
    converter = FrameConverter()
    if is_atari(settings.id):
        env = make_vec_env(settings, 1, seed, training=False)
        return RenderedEnv(env, FPS, lambda: converter.convert(env.get_images()[0]), converter)
    single = _first_that_renders(settings)

    def render() -> Frame:
        try:
            return converter.convert(_call(single.render))
        except FrameError as error:
            raise InputError(f"env.id = {settings.id!r}: {error}") from error

    vector = SpawnedSeedDummyVecEnv([lambda: Monitor(single)])
    vector.seed(seed)
    return RenderedEnv(vector, _fps(single), render, converter)


def _first_that_renders(settings: EnvSettings) -> gym.Env[Any, Any]:
    failures = []
    for kwargs in _variants(settings.kwargs):
        mode = kwargs.get("render_mode")
        variant = "without a render_mode" if mode is None else f"with render_mode = {mode!r}"
        is_last = mode not in MODES
        try:
            env = _make_quietly(replace(settings, kwargs=kwargs))
        except InputError as error:
            if is_last:
                raise  # the environment cannot be made at all
            failures.append(f"{variant}: {error}")
            continue
        try:
            _call(env.reset)
            FrameConverter().convert(_call(env.render))
        except FrameError as error:
            failures.append(f"{variant}: {error}")
            with suppress(Exception):
                env.close()
            continue
        given = settings.kwargs.get("render_mode")
        if given not in (None, mode):
            print(f"note: env.kwargs.render_mode = {given!r} in the run's config: recorded {variant}", file=sys.stderr)
        return env
    listed = "".join(f"\n  {failure}" for failure in failures)
    raise InputError(f"env.id = {settings.id!r}: does not render:{listed}")


def _variants(kwargs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the keyword arguments with each render mode, and last without one."""
    for mode in MODES:
        yield {**kwargs, "render_mode": mode}
    yield {key: value for key, value in kwargs.items() if key != "render_mode"}


def _make_quietly(settings: EnvSettings) -> gym.Env[Any, Any]:
    with warnings.catch_warnings():
        # Environments may render in modes that their metadata does not list.
        warnings.filterwarnings("ignore", message=".*not in the possible render_modes")
        return make_env(settings)


def _call(method: Callable[[], Any]) -> Any:
    """Calls a method of an environment.

    Raises:
        FrameError: the method raised an error; has its file and line.
    """
    try:
        return method()
    except InputError as error:
        raise FrameError(str(error)) from error


def _fps(env: gym.Env[Any, Any]) -> float:
    """Returns an environment's `render_fps`, or the default if missing or invalid."""
    given = (env.metadata or {}).get("render_fps")
    if given is None:
        return FPS
    try:
        fps = float(given)
    except (TypeError, ValueError):
        fps = 0.0
    if 0 < fps <= MAX_FPS:
        return fps
    print(f"note: metadata['render_fps'] = {given!r}: recorded with {FPS:g} frames per second", file=sys.stderr)
    return FPS
