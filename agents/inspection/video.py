"""Videos of an agent's episodes, with its actions, its values and the weightings of its memory."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
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
from ntm_rl.agents.inspection.plotting import pool_slots
from ntm_rl.agents.inspection.rendering import make_rendered_env
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.runs.loading import Origin, load_run_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.envs.factory import UseMasks
from ntm_rl.envs.sb3.action_masks import ActionMaskReader
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
        max_steps: Length limit of the video.

    Raises:
        InputError: no agent, an environment without frames, imageio or its ffmpeg missing, or an existing `out`.
    """
    check_counts(seed, episodes=episodes, max_steps=max_steps)
    settings = run.ppo_settings()
    writer = _require_imageio()
    out = _new_file(run, out, seed)
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
            masks = settings.env.action_masks
            images = play(agent, rendered.env, episodes, max_steps, deterministic, returns, rendered.render, masks)
            steps = _write(out, images, writer, rendered.fps)
    finally:
        close(rendered.env)
    missing = rendered.converter.missing
    if missing:
        print(f"note: render() returned None {missing} times: frames are repeated", file=sys.stderr)
    return Recording(out, agent.origin, returns, steps)


def _new_file(run: Run, out: Path | None, seed: int) -> Path:
    """Returns the file to write; default: a new one in the run's `videos/`."""
    if out is None:
        out = run.make_folder("videos") / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}.mp4"
    if out.exists():
        raise InputError(f"out = {str(out)!r}: exists already")
    if out.suffix != ".mp4" or not out.parent.is_dir():
        raise InputError(f"out = {str(out)!r}: must be a file ending in .mp4 in a folder that exists")
    return out


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
        raise InputError(f"out = {str(out)!r}: could not be written: {error}") from error


def play(
    agent: LoadedAgent,
    env: VecEnv,
    episodes: int,
    max_steps: int,
    deterministic: bool,
    returns: list[float],
    render: Callable[[], Frame],
    use_masks: UseMasks = "auto",
) -> Iterator[Frame]:
    """Plays episodes in a single environment and yields an image per step.

    Args:
        agent: The agent.
        env: One environment.
        episodes: Number of episodes.
        max_steps: Step limit over all episodes.
        deterministic: Take the most likely action instead of a sample.
        returns: List to which the returns of the episodes are appended.
        render: Returns the environment's current frame.
        use_masks: Whether to use the environment's action masks.
    """
    policy: MlpNtmPolicy = agent.policy
    names = _action_names(env)
    observations: Any = env.reset()
    reader = ActionMaskReader(env, use_masks)
    masks = reader.reset()
    state, resets = policy.initial_state(1), torch.ones(1, dtype=torch.bool, device=policy.device)
    history: deque[Weightings] = deque(maxlen=HISTORY)
    score, width = 0.0, 0
    for _ in range(max_steps):
        frame = render()
        width = width or _width(frame)  # all images of a video have the same size
        tensors, _ = policy.obs_to_tensor(agent.normalized(observations))
        with torch.no_grad():
            allowed = None if masks is None else torch.from_numpy(masks).to(policy.device)
            actions, values, _, state = policy.step(tensors, state, resets, deterministic, allowed)
            history.append(_weightings(policy, state))
        converted = policy.action_converter(actions.cpu().numpy())
        action = _action_text(converted[0], names)
        lines = [f"score   {score:g}", f"action  {action}", f"value   {float(values[0]):.3f}"]
        yield draw(frame, width, lines, {name: np.stack([step[name] for step in history]) for name in history[0]})
        observations, rewards, dones, infos = env.step(converted)
        masks = reader.step(infos, dones)
        score += float(rewards[0])
        resets[0] = bool(dones[0])
        if dones[0]:
            returns.append(float(infos[0]["episode"]["r"]))
            score = 0.0
            if len(returns) == episodes:
                return


def _weightings(policy: MlpNtmPolicy, state: torch.Tensor) -> Weightings:
    """Returns the weightings of the first heads of the (actor's) core, pooled to the rows of an image."""
    found = list(policy.core.weightings(state[:, : policy.core.state_size]).items())[:MAX_HEADS]
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


def _action_names(env: VecEnv) -> list[str]:
    try:
        return list(env.get_attr("action_meanings")[0])
    except AttributeError:
        return []


def _action_text(action: NDArray[Any], names: list[str]) -> str:
    if action.ndim == 0 and names:
        return names[int(action)]
    return np.array2string(action, precision=2, floatmode="maxprec")


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
