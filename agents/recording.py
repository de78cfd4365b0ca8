"""Films an agent: what it plays, what it does and expects, and how it uses its memory meanwhile."""

import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ntm_rl.agents.evaluation import load_run_agent
from ntm_rl.agents.export import LoadedAgent
from ntm_rl.agents.policies import MlpNtmPolicy
from ntm_rl.agents.ppo import MemoryPPO
from ntm_rl.agents.runs import Run
from ntm_rl.agents.schema import SupervisedSettings
from ntm_rl.envs.factory import EnvSettings, make_env
from ntm_rl.envs.native import is_atari
from ntm_rl.envs.vector import make_vec_env
from ntm_rl.errors import InputError
from ntm_rl.ntm import NtmState

Picture = NDArray[np.uint8]
HEIGHT = 384  # pixels of a film, a multiple of the 16 that encoders want
PANEL = 256  # pixels of the part beside the game
HISTORY = PANEL - 16  # steps of the memory's use that are shown
MOST_HEADS = 4
ATARI_FPS = 15.0  # of its 60 frames a second, each step shows one in four


@dataclass(frozen=True)
class Recording:
    """A film of whole episodes.

    Attributes:
        path: The mp4.
        returns: Of its episodes, not clipped.
        steps: In all.
    """

    path: Path
    returns: list[float]
    steps: int


def record(
    run: Run,
    out: Path | None = None,
    episodes: int = 1,
    *,
    seed: int = 10_000,
    deterministic: bool = True,
    best: bool = False,
    max_steps: int = 5000,
) -> Recording:
    """Films whole episodes of a run's agent: the finished one, else its latest checkpoint.

    Args:
        run: Whose agent.
        out: The mp4 to write, which must not exist; by default one under the run's `videos/`.
        episodes: How many.
        seed: Of the environment.
        deterministic: Take the most likely action instead of a sample.
        best: Take the agent with the best mean return of the training instead.
        max_steps: Where the film ends although its last episode does not.

    Raises:
        InputError: no agent, an environment that shows nothing, imageio or its ffmpeg is missing, or `out` exists.
    """
    for name, value in (("episodes", episodes), ("max_steps", max_steps)):
        if value < 1:
            raise InputError(f"{name} = {value}: must be at least 1")
    settings = run.settings()
    if isinstance(settings, SupervisedSettings):
        raise InputError(f"run = {str(run.path)!r}: a supervised run plays no episodes; `ntm-rl inspect` draws it")
    writer = _require_imageio()
    if out is None:
        out = run.make_folder("videos") / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}.mp4"
    if out.exists():
        raise InputError(f"out = {str(out)!r}: exists already")
    if out.suffix != ".mp4" or not out.parent.is_dir():
        raise InputError(f"out = {str(out)!r}: must be a file ending in .mp4 in a folder that exists")
    env, fps = _make_filmed(settings.env_settings, seed)
    agent, env = load_run_agent(run, settings, env, best=best)
    returns: list[float] = []
    steps = 0
    try:
        # A folder, and not a file: ffmpeg may still create its file after it was told to stop.
        with TemporaryDirectory(dir=out.parent, prefix=".film-", ignore_cleanup_errors=True) as unfinished:
            with writer(f"{unfinished}/film.mp4", fps=fps, macro_block_size=16) as film:
                for picture in play(agent, env, episodes, max_steps, deterministic, returns):
                    film.append_data(picture)
                    steps += 1
            Path(unfinished, "film.mp4").replace(out)
    except OSError as error:
        raise InputError(f"out = {str(out)!r}: could not be written: {error}") from error
    finally:
        env.close()
    return Recording(out, returns, steps)


def play(
    agent: LoadedAgent | MemoryPPO,
    env: VecEnv,
    episodes: int,
    max_steps: int,
    deterministic: bool,
    returns: list[float],
) -> Iterator[Picture]:
    """Plays episodes in an environment of one copy and yields a picture a step; adds their returns to `returns`."""
    policy: MlpNtmPolicy = agent.policy
    names = _action_names(env)
    observations: Any = env.reset()
    state, resets = policy.initial_state(1), torch.ones(1, dtype=torch.bool, device=policy.device)
    heads: deque[NDArray[Any]] = deque(maxlen=HISTORY)
    score, width = 0.0, 0
    for _ in range(max_steps):
        shown = np.asarray(env.get_images()[0])
        width = width or max(16, round(shown.shape[1] * HEIGHT / shown.shape[0] / 16) * 16)  # a film has one size
        seen = agent.normalized(observations) if isinstance(agent, LoadedAgent) else observations
        tensors, _ = policy.obs_to_tensor(seen)
        with torch.no_grad():
            actions, values, _, state = policy.step(tensors, state, resets, deterministic)
        parts = policy.core.unpack(state[:, : policy.core.state_size])
        if isinstance(parts, NtmState):
            heads.append(parts.weightings[0].cpu().numpy())
        action = actions[0].cpu().numpy()
        lines = [f"score   {score:g}", f"action  {_tell(action, names)}", f"value   {float(values[0]):.3f}"]
        yield draw(shown, width, lines, np.array(heads), getattr(policy.core, "read_heads", 0))
        observations, rewards, dones, infos = env.step(actions.cpu().numpy())
        score += float(rewards[0])
        resets[0] = bool(dones[0])
        if dones[0]:
            returns.append(float(infos[0]["episode"]["r"]))
            score = 0.0
            if len(returns) == episodes:
                return


def draw(frame: Picture, width: int, lines: list[str], weightings: NDArray[Any], read_heads: int) -> Picture:
    """Draws one picture: the game, what the agent says, and a strip a head of where it was, newest on the right.

    Args:
        frame: `[H, W, 3]`, shown as large as fits.
        width: Of the game's part.
        lines: Of text.
        weightings: `[T, K, N]` of the last steps, read heads first; empty without any.
        read_heads: How many of the K read.

    Returns:
        `[HEIGHT, width + PANEL, 3]`.
    """
    from PIL import Image, ImageDraw

    scale = min(width / frame.shape[1], HEIGHT / frame.shape[0])
    size = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    picture = Image.new("RGB", (width + PANEL, HEIGHT))
    picture.paste(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST))
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        pen.text((width + 8, 8 + 16 * number), line, fill="white")
    if len(weightings) == 0:
        return np.asarray(picture)
    top = 16 * (len(lines) + 1)
    shown = min(weightings.shape[1], MOST_HEADS)
    tall = (HEIGHT - top) // shown
    for head in range(shown):
        kind = f"read head {head + 1}" if head < read_heads else f"write head {head - read_heads + 1}"
        pen.text((width + 8, top + head * tall), kind, fill="white")
        strip = np.zeros((weightings.shape[2], HISTORY), dtype=np.uint8)
        # The root makes a weighting spread over some slots visible beside a sharp one.
        strip[:, HISTORY - len(weightings) :] = 255 * np.sqrt(weightings[:, head].T.clip(0, 1))
        size = (HISTORY, tall - 24)
        picture.paste(
            Image.fromarray(strip).resize(size, Image.Resampling.NEAREST), (width + 8, top + head * tall + 16)
        )
    return np.asarray(picture)


def _make_filmed(settings: EnvSettings, seed: int) -> tuple[VecEnv, float]:
    """Returns one copy of an environment that shows itself, and its pictures a second."""
    if is_atari(settings.id):
        return make_vec_env(settings, 1, seed, training=False), ATARI_FPS
    with warnings.catch_warnings():
        # Said below, once and clearly.
        warnings.filterwarnings("ignore", message=".*not in the possible render_modes")
        try:
            single = make_env(settings, render_mode="rgb_array")
        except InputError as error:
            make_env(settings).close()  # what is wrong without pictures too is told as it is
            raise _no_pictures(settings) from error
    if single.render_mode != "rgb_array" or "rgb_array" not in single.metadata.get("render_modes", ()):
        single.close()
        raise _no_pictures(settings)
    env = DummyVecEnv([lambda: Monitor(single)])
    env.seed(seed)
    return env, float(single.metadata.get("render_fps") or ATARI_FPS)


def _no_pictures(settings: EnvSettings) -> InputError:
    return InputError(f"env.id = {settings.id!r}: it shows no pictures (it has no render_mode 'rgb_array')")


def _action_names(env: VecEnv) -> list[str]:
    try:
        return list(env.get_attr("action_meanings")[0])
    except AttributeError:
        return []


def _tell(action: NDArray[Any], names: list[str]) -> str:
    if action.ndim == 0 and names:
        return names[int(action)]
    return np.array2string(action, precision=2, floatmode="maxprec")


def _require_imageio() -> Any:
    """Returns imageio's writer of films.

    Raises:
        InputError: imageio or its ffmpeg is not installed.
    """
    try:
        import_module("imageio_ffmpeg").get_ffmpeg_exe()
        return import_module("imageio.v2").get_writer
    except (ImportError, RuntimeError) as error:  # RuntimeError: the package without a program for this machine
        raise InputError(f'films need imageio and ffmpeg ({error}); run: pip install "ntm-rl[video]"') from error
