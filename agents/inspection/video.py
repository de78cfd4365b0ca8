"""Films an agent: what it plays, what it does and expects, and how it uses its memory meanwhile."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from ntm_rl.agents.inspection.evaluation import check_counts, close, played_settings, prepare, seeded
from ntm_rl.agents.inspection.filming import make_filmed
from ntm_rl.agents.inspection.frames import Frames, Picture
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.ppo.algorithm import MemoryPPO
from ntm_rl.agents.runs.loading import Origin, load_run_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.cores.ntm import NtmState
from ntm_rl.errors import InputError

HEIGHT = 384  # pixels of a film, a multiple of the 16 that encoders want
PANEL = 256  # pixels of the part beside the game
HISTORY = PANEL - 16  # steps of the memory's use that are shown
MOST_HEADS = 4
MAX_WIDTH = 2 * 768  # pixels of the environment's part


@dataclass(frozen=True)
class Recording:
    """A film of whole episodes.

    Attributes:
        path: The mp4.
        origin: Which agent plays.
        returns: Of its episodes that ended, not clipped.
        steps: In all.
    """

    path: Path
    origin: Origin
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
    """Films whole episodes of a run's agent, as `load_run_agent` finds it, at the level that it reached.

    Args:
        run: Whose agent.
        out: The mp4 to write, which must not exist; by default one under the run's `videos/`.
        episodes: How many.
        seed: Of the environment and of sampled actions.
        deterministic: Take the most likely action instead of a sample.
        best: Take the agent with the best mean return of the training instead of the last.
        max_steps: Where the film ends although its last episode does not.

    Raises:
        InputError: no agent, an environment that shows nothing, imageio or its ffmpeg is missing, or `out` exists.
    """
    check_counts(seed, episodes=episodes, max_steps=max_steps)
    settings = run.settings()
    if not isinstance(settings, PpoTrainingSettings):
        raise InputError(f"run = {str(run.path)!r}: a supervised run plays no episodes; `ntm-rl inspect` draws it")
    writer = _require_imageio()
    out = _new_file(run, out, seed)
    agent = load_run_agent(run, "best" if best else "last")
    print(f"films {settings.env.id} with {agent.origin}", file=sys.stderr)
    filmed = make_filmed(played_settings(settings.env_settings), seed)
    returns: list[float] = []
    try:
        prepare(filmed.env, agent)
        with seeded(agent, seed, copies=1):
            pictures = play(agent, filmed.env, episodes, max_steps, deterministic, returns, filmed.show)
            steps = _write(out, pictures, writer, filmed.fps)
    finally:
        close(filmed.env)
    if filmed.frames.missing:
        print(f"note: render() returned None {filmed.frames.missing} times: the last was shown again", file=sys.stderr)
    return Recording(out, agent.origin, returns, steps)


def _new_file(run: Run, out: Path | None, seed: int) -> Path:
    """Returns the file to write, by default a new one under the run's `videos/`."""
    if out is None:
        out = run.make_folder("videos") / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}.mp4"
    if out.exists():
        raise InputError(f"out = {str(out)!r}: exists already")
    if out.suffix != ".mp4" or not out.parent.is_dir():
        raise InputError(f"out = {str(out)!r}: must be a file ending in .mp4 in a folder that exists")
    return out


def _write(out: Path, pictures: Iterator[Picture], writer: Any, fps: float) -> int:
    """Writes a film and returns how many pictures it has; nothing is left of one that breaks off."""
    steps = 0
    with ExitStack() as stack:
        with _told(out):
            # A folder, and not a file: ffmpeg may still create its file after it was told to stop.
            folder = TemporaryDirectory(dir=out.parent, prefix=".film-", ignore_cleanup_errors=True)
            unfinished = Path(stack.enter_context(folder), "film.mp4")
            film = stack.enter_context(writer(unfinished, fps=fps, macro_block_size=16))
        for picture in pictures:  # an error of the environment is not one of the file
            with _told(out):
                film.append_data(picture)
            steps += 1
        with _told(out):
            film.close()
            unfinished.replace(out)
    return steps


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """Names the film in the errors of writing it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"out = {str(out)!r}: could not be written: {error}") from error


def play(
    agent: LoadedAgent | MemoryPPO,
    env: VecEnv,
    episodes: int,
    max_steps: int,
    deterministic: bool,
    returns: list[float],
    show: Callable[[], Picture] | None = None,
) -> Iterator[Picture]:
    """Plays episodes in an environment of one copy and yields a picture a step; adds their returns to `returns`.

    `show` returns what the environment shows; by default `env.get_images` is asked.
    """
    frames = Frames()
    look = show or (lambda: frames.picture(env.get_images()[0]))
    policy: MlpNtmPolicy = agent.policy
    names = _action_names(env)
    observations: Any = env.reset()
    state, resets = policy.initial_state(1), torch.ones(1, dtype=torch.bool, device=policy.device)
    heads: deque[NDArray[Any]] = deque(maxlen=HISTORY)
    score, width = 0.0, 0
    for _ in range(max_steps):
        shown = look()
        width = width or _width(shown)  # a film has one size
        seen = agent.normalized(observations) if isinstance(agent, LoadedAgent) else observations
        tensors, _ = policy.obs_to_tensor(seen)
        with torch.no_grad():
            actions, values, _, state = policy.step(tensors, state, resets, deterministic)
        parts = policy.core.unpack(state[:, : policy.core.state_size])
        if isinstance(parts, NtmState):
            heads.append(parts.weightings[0].cpu().numpy())
        converted = policy.action_converter(actions.cpu().numpy())
        action = converted[0]
        lines = [f"score   {score:g}", f"action  {_tell(action, names)}", f"value   {float(values[0]):.3f}"]
        yield draw(shown, width, lines, np.array(heads), getattr(policy.core, "read_heads", 0))
        observations, rewards, dones, infos = env.step(converted)
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
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
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


def _width(shown: Picture) -> int:
    """Returns how wide a film shows an environment: in its proportions, but for those of a ribbon."""
    wanted: int = round(shown.shape[1] * HEIGHT / shown.shape[0] / 16) * 16
    return min(max(wanted, 16), MAX_WIDTH)


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
