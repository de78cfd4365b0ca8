"""Makes single environments whose frames can be shown: tries the render modes until one returns an image."""

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
from ntm_rl.agents.inspection.notes import print_once
from ntm_rl.envs.factory import EnvSettings, make_env
from ntm_rl.envs.native import is_atari
from ntm_rl.envs.sb3.making import SpawnedSeedDummyVecEnv, make_vec_env
from ntm_rl.errors import InputError

FPS = 15.0  # of Atari, with 60 frames per second and a frame skip of 4; also the default of other environments
OBSERVATION_FPS = 4.0  # of environments that do not render
MAX_FPS = 240.0
MODES = ("rgb_array", "rgb_array_list")


@dataclass(frozen=True)
class RenderedEnv:
    """A single environment.

    Attributes:
        env: The environment.
        fps: Frames per second.
        render: Returns the current frame as RGB; None if it does not render.
    """

    env: VecEnv
    fps: float
    render: Callable[[], Frame] | None


class Renderer:
    """Renders an environment that rendered before; a frame that fails is replaced by the previous one, with one note.

    Args:
        render: Returns a frame of any format.
        converter: Converts the frames.
        frame: The previous frame.
    """

    def __init__(self, render: Callable[[], Any], converter: FrameConverter, frame: Frame):
        self._render, self._converter, self._last = render, converter, frame
        self._has_failed = False

    def __call__(self) -> Frame:
        """Returns the current frame as RGB."""
        try:
            self._last = self._converter.convert(_call(self._render))
        except FrameError as error:
            if not self._has_failed:
                print_once(f"note: {error}: the previous frame is shown where render() fails")
            self._has_failed = True
        return self._last


def make_rendered_env(settings: EnvSettings, seed: int) -> RenderedEnv:
    """Makes a single environment that renders, if it can.

    Each render mode is tried, then none; the first that returns an image after a reset is used.

    Raises:
        InputError: the environment cannot be made.
    """
    if is_atari(settings.id):
        env = make_vec_env(settings, 1, seed, training=False)
        atari = FrameConverter()
        return RenderedEnv(env, FPS, lambda: atari.convert(env.get_images()[0]))
    found = _first_that_renders(settings)
    if isinstance(found, str):
        print_once(f"note: {settings.id} {found}: the observations are shown")
        return RenderedEnv(make_vec_env(settings, 1, seed, training=False), OBSERVATION_FPS, None)
    single, renderer = found
    vector = SpawnedSeedDummyVecEnv([lambda: Monitor(single)])
    vector.seed(seed)
    return RenderedEnv(vector, _fps(single), renderer)


def _first_that_renders(settings: EnvSettings) -> tuple[gym.Env[Any, Any], Renderer] | str:
    """Returns the environment in the first mode in which it renders, else why it does not render."""
    failures = []
    for kwargs in _variants(settings.kwargs):
        mode = kwargs.get("render_mode")
        variant = "without a render_mode" if mode is None else f"with render_mode = {mode!r}"
        try:
            env = _make_quietly(replace(settings, kwargs=kwargs))
        except InputError:
            if mode not in MODES:
                raise  # the environment cannot be made at all
            continue
        converter = FrameConverter()
        try:
            _call(env.reset)
            frame = converter.convert(_call(env.render))
        except FrameError as error:
            with suppress(Exception):
                env.close()
            if type(env.unwrapped).render is gym.Env.render:
                return "has no render()"
            prefix = f"env.id = {settings.id!r}, step 0: "  # the note names the environment already
            failures.append(f"does not render ({variant}: {str(error).removeprefix(prefix)})")
            continue
        given = settings.kwargs.get("render_mode")
        if given not in (None, mode):
            print(f"note: env.kwargs.render_mode = {given!r} in the run's config: recorded {variant}", file=sys.stderr)
        return env, Renderer(env.render, converter, frame)
    return failures[0]


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
