"""Videos of an agent's episodes, with its actions, its values and the weightings of its memory."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
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
from ntm_rl.agents.inspection.frames import Frame
from ntm_rl.agents.inspection.naming import action_names, observation_parts
from ntm_rl.agents.inspection.new_files import new_file
from ntm_rl.agents.inspection.observation_frames import ObservationDrawer
from ntm_rl.agents.inspection.playing import Step, play
from ntm_rl.agents.inspection.plotting import pool_slots
from ntm_rl.agents.inspection.rendering import make_rendered_env
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.runs.loading import Origin, load_run_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.storage.files import WriteError
from ntm_rl.errors import InputError

HEIGHT = 384  # pixels; a multiple of 16, as encoders require
MAX_WIDTH = 2 * 768  # pixels of the environment's part
PANEL = 256  # pixels of the part with text and weightings
MARGIN, LINE = 8, 16  # pixels around the panel, and of a line of text
TOP = 4 * LINE  # pixels above the weightings: three lines of text and a space
HISTORY = PANEL - 2 * MARGIN  # steps of weightings in an image
MAX_HEADS = 4  # in an image

Weightings = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Recording:
    """A video of whole episodes.

    Attributes:
        path: The mp4 file.
        origin: The agent's source.
        returns: Undiscounted returns of the episodes that ended.
        steps: Environment steps, one image each.
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
    """Records whole episodes of a run's agent (see `load_run_agent`), at the curriculum level that it reached.

    Args:
        run: A PPO run.
        out: The mp4 file to write, which must not exist; default: a new file in the run's `videos/`.
        episodes: Number of episodes.
        seed: Seed of the environment and of sampled actions.
        deterministic: Take the most likely action instead of a sample.
        best: Use the agent with the best mean training return instead of the last.
        max_steps: Most steps in total.

    Raises:
        InputError: no agent, imageio or its ffmpeg missing, or an existing `out`.
        WriteError: the file cannot be written.
    """
    check_counts(seed, episodes=episodes, max_steps=max_steps)
    settings = run.ppo_settings()
    writer = _require_imageio()
    out = new_file(run, "videos", (".mp4",), out, seed)
    settings.import_core()
    agent = load_run_agent(run, best=best)
    if not agent.policy.core.has_weightings():
        print(f"note: core {settings.core_name!r} has no weightings: the video shows none", file=sys.stderr)
    print(f"records {settings.env.id} with {agent.origin}", file=sys.stderr)
    rendered = make_rendered_env(played_settings(settings.env_settings), seed)
    returns: list[float] = []
    try:
        prepare(rendered.env, agent)
        with seeded(agent, seed, n_envs=1):
            played = play(
                agent,
                rendered.env,
                rendered.render,
                max_steps=max_steps,
                deterministic=deterministic,
                use_masks=settings.env.action_masks,
            )
            images = draw_steps(agent, rendered.env, played, episodes, returns)
            steps = _write(out, images, writer, rendered.fps)
    finally:
        close(rendered.env)
    if len(returns) < episodes:
        ended = f"{len(returns)} of {episodes} episodes ended"
        print(f"note: stopped after {steps:,} steps (max_steps): {ended}", file=sys.stderr)
    return Recording(out, agent.origin, returns, steps)


def _write(out: Path, images: Iterator[Frame], writer: Any, fps: float) -> int:
    """Writes a video and returns its number of images; an error leaves no file behind."""
    steps = 0
    with ExitStack() as stack:
        with _naming(out):
            # In a folder that is deleted: ffmpeg may create its file after it was told to stop.
            folder = TemporaryDirectory(dir=out.parent, prefix=".video-", ignore_cleanup_errors=True)
            unfinished = Path(stack.enter_context(folder), "video.mp4")
            video = stack.enter_context(writer(unfinished, fps=fps, macro_block_size=16))
        for image in images:  # errors of the environment pass through
            with _naming(out):
                video.append_data(image)
            steps += 1
        with _naming(out):
            video.close()
            unfinished.replace(out)
    return steps


@contextmanager
def _naming(out: Path) -> Iterator[None]:
    """Adds the path of the video to errors of writing it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]  # without the log of ffmpeg
        raise WriteError(f"{out}: cannot be written: {reason}") from error


def draw_steps(
    agent: LoadedAgent, env: VecEnv, steps: Iterable[Step], episodes: int, returns: list[float]
) -> Iterator[Frame]:
    """Yields an image per step; the observation is drawn where the environment does not render.

    Args:
        agent: The agent.
        env: The environment.
        steps: The steps to draw.
        episodes: Number of episodes after which to stop.
        returns: List to which the returns of the episodes are appended.
    """
    names, drawer = action_names(env), ObservationDrawer(observation_parts(env))
    history: deque[Weightings] = deque(maxlen=HISTORY)
    score, width = 0.0, 0
    for step in steps:
        frame = drawer.draw(step.observation) if step.frame is None else step.frame
        width = width or _width(frame)  # all images of a video have the same size
        history.append(_weightings(agent.policy, step.after))
        lines = [f"score   {score:g}", f"action  {_action_text(step, names)}", f"value   {step.value:.3f}"]
        yield draw(frame, width, lines, {name: np.stack([each[name] for each in history]) for name in history[0]})
        score += step.reward
        if step.ended:
            returns.append(float(step.info["episode"]["r"]))
            score = 0.0
            if len(returns) == episodes:
                return


def _weightings(policy: MlpNtmPolicy, state: torch.Tensor) -> Weightings:
    """Returns the weightings of the first heads in a state of the core, pooled to the rows of an image."""
    with torch.no_grad():
        found = list(policy.core.weightings(state).items())[:MAX_HEADS]
    return {name: pool_slots(head[0].cpu().numpy(), _strip_height(len(found), TOP)) for name, head in found}


def draw(frame: Frame, width: int, lines: list[str], weightings: Mapping[str, NDArray[np.float32]]) -> Frame:
    """Draws one image: the frame, lines of text, and a strip per head with its weightings, newest on the right.

    Args:
        frame: `[H, W, 3]`, scaled to fit.
        width: Pixels of the frame's part.
        lines: Text.
        weightings: `[T, N]` of the last T steps, by the head's name.

    Returns:
        `[HEIGHT, width + PANEL, 3]`.
    """
    from PIL import Image, ImageDraw

    scale = min(width / frame.shape[1], HEIGHT / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    image = Image.new("RGB", (width + PANEL, HEIGHT))
    image.paste(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST))
    pen, left, top = ImageDraw.Draw(image), width + MARGIN, MARGIN
    for line in lines:
        pen.text((left, top), line, fill="white")
        top += LINE
    top += MARGIN
    height = _strip_height(len(weightings), top)
    for name, steps in weightings.items():
        pen.text((left, top), name, fill="white")
        strip = Image.fromarray(_strip(steps)).resize((HISTORY, height), Image.Resampling.NEAREST)
        image.paste(strip, (left, top + LINE))
        top += LINE + height + MARGIN
    return np.asarray(image)


def _strip_height(heads: int, top: int) -> int:
    """Returns the pixels of a head's strip, which has its name above and a margin below."""
    return (HEIGHT - top) // max(heads, 1) - LINE - MARGIN


def _strip(weightings: NDArray[np.float32]) -> Frame:
    """Returns weightings `[T, N]` as grey values `[N, HISTORY]`."""
    strip = np.zeros((weightings.shape[1], HISTORY), dtype=np.uint8)
    # The square root keeps a weighting over several slots visible beside a sharp one.
    strip[:, HISTORY - len(weightings) :] = 255 * np.sqrt(weightings.T.clip(0, 1))
    return strip


def _width(frame: Frame) -> int:
    """Returns the width of the frame's part: in the frame's proportions, within limits."""
    width: int = round(frame.shape[1] * HEIGHT / frame.shape[0] / 16) * 16
    return min(max(width, 16), MAX_WIDTH)


def _action_text(step: Step, names: tuple[str, ...] | None) -> str:
    if step.sample.ndim == 0 and names:
        return names[int(step.sample)]
    return np.array2string(np.asarray(step.action), precision=2, floatmode="maxprec")


def _require_imageio() -> Any:
    """Returns imageio's `get_writer`.

    Raises:
        InputError: imageio or its ffmpeg is not installed.
    """
    try:
        import_module("imageio_ffmpeg").get_ffmpeg_exe()
        return import_module("imageio.v2").get_writer
    except (ImportError, RuntimeError) as error:  # RuntimeError: no ffmpeg for this machine
        raise InputError(f'videos need imageio and ffmpeg ({error}); run: pip install "ntm-rl[video]"') from error
