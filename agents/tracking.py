"""Metrics of a run: CSV and TensorBoard always, Weights & Biases as a mirror whose trouble stops nothing."""

import io
import netrc
import os
import queue
import re
import ssl
import threading
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import numpy as np
import torch
import wandb
from stable_baselines3.common.logger import Figure, Image, KVWriter, Logger, Video

from ntm_rl.agents.csv_log import CsvWriter, drop_rows_after, number
from ntm_rl.agents.environment_variables import Mode, wandb_mode, without_passwords
from ntm_rl.agents.tensorboard_log import TensorBoardWriter

STEPS = "time/total_timesteps"
ID_LENGTH = 128  # the longest name that W&B takes
ANSWER_SECONDS = 5.0  # for a server to show that it is there
INIT_SECONDS = 60.0
MAX_WAITING = 10_000  # rows and agents that a slow server may leave waiting
FINISH_SECONDS = 60.0  # for these to be taken at the end of a run
UPLOAD_SECONDS = 120.0  # at the end of a run; what is not sent by then stays in the run directory for `wandb sync`


class WandbWriter(KVWriter):
    """Sends one `run.log` a dump, against environment steps as a metric and not as W&B's own step.

    W&B drops what is logged under a step that has passed, which is what a resumed run does.

    Args:
        run: W&B's.
        steps_key: Name of the metric that counts the steps.
        sent: File that keeps the steps of the last row that W&B took; None: a run that is not resumed.
    """

    def __init__(self, run: Any, steps_key: str = STEPS, sent: Path | None = None):
        self._run, self._steps_key, self._sent = run, steps_key, sent
        self._had = -1  # steps up to which W&B has the rows of the training that is resumed
        self._works = True
        self._dropped: set[str] = set()
        self._trouble: Exception | None = None  # of the thread, told by the next call from outside of it
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._send_all, name="wandb", daemon=True)
        self._thread.start()
        self._try(lambda: run.define_metric(steps_key))
        self._try(lambda: run.define_metric("*", step_metric=steps_key))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """See `stable_baselines3.common.logger.KVWriter.write`."""
        if not self._works or step <= self._had:
            return
        row = {key: self._convert(key, value) for key, value in key_values.items() if "wandb" not in key_excluded[key]}
        row = {key: value for key, value in row.items() if value is not None}

        def send() -> None:
            self._run.log({**row, self._steps_key: step})
            if self._sent is not None:
                self._sent.write_text(str(step))

        self._try(send)

    def leave_out_repeats(self) -> None:
        """Makes the rows that a resumed training repeats since its checkpoint no news to W&B."""
        with suppress(OSError, ValueError):  # none yet, or cut short: W&B gets some rows twice
            if self._sent is not None:
                self._had = int(self._sent.read_text())

    def log_agent(self, name: str, folder: Path, aliases: list[str], metadata: Mapping[str, Any]) -> None:
        """Sends an exported agent as a new version of an artifact."""

        def send() -> None:
            artifact = wandb.Artifact(_valid_name(name), type="model", metadata=dict(metadata))
            for path in sorted(folder.iterdir()):
                artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=aliases)

        self._try(send)

    def close(self) -> None:
        """Ends the run, also one that was in trouble: what it has is kept in its folder."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._works = False  # makes the thread drop what waits
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._give_up(TimeoutError(f"it has not taken what was sent within {FINISH_SECONDS:g} s"))
            return
        self._tell()
        try:
            self._run.finish()
        except Exception as error:
            self._give_up(error)

    def _convert(self, key: str, value: Any) -> Any:
        try:
            return _to_wandb(value)
        except Exception as error:  # one picture that cannot be shown is no reason to lose the other metrics
            if key not in self._dropped:
                self._dropped.add(key)
                warnings.warn(
                    f"{key} cannot be sent to Weights & Biases and is left out: {without_passwords(str(error))}",
                    stacklevel=3,
                )
            return None

    def _try(self, action: Callable[[], object]) -> None:
        """Leaves an action to the thread: whatever W&B waits for, the training does not."""
        self._tell()
        if not self._works:
            return
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self._give_up(TimeoutError(f"{MAX_WAITING} entries wait to be taken"))

    def _send_all(self) -> None:
        while (action := self._queue.get()) is not None:
            if not self._works:
                return
            try:
                action()
            except Exception as error:  # whatever W&B's trouble is, the run directory holds everything
                self._trouble = error
                return

    def _tell(self) -> None:
        if self._trouble is not None:
            self._give_up(self._trouble)

    def _give_up(self, error: Exception) -> None:
        if self._works:
            self._works = False
            warnings.warn(
                f"Weights & Biases failed and is left alone from here on: {without_passwords(str(error))}", stacklevel=4
            )


def make_logger(run_dir: Path, wandb_writer: WandbWriter | None, steps: int = 0, steps_key: str = STEPS) -> Logger:
    """Makes SB3's logger of a run: `progress.csv`, `tensorboard/` and, if given, W&B.

    Args:
        run_dir: The run directory.
        wandb_writer: From `start_wandb`.
        steps: Environment steps at which a training resumes; what was logged later will be logged again.
        steps_key: Name of the metric that counts the steps.

    Raises:
        StorageError: the folder cannot be written, or its `progress.csv` is no table.
    """
    progress = run_dir / "progress.csv"
    drop_rows_after(progress, steps_key, steps)
    if wandb_writer is not None and steps > 0:
        wandb_writer.leave_out_repeats()
    writers: list[KVWriter] = [CsvWriter(progress), TensorBoardWriter(run_dir / "tensorboard", steps)]
    return Logger(str(run_dir), [*writers, wandb_writer] if wandb_writer else writers)


def pending_metrics(logger: Logger) -> dict[str, list[Any]]:
    """Returns the numbers that were recorded since the last dump, for a checkpoint."""
    numbers = {key: number(value) for key, value in logger.name_to_value.items()}
    return {
        key: [value, [each for each in logger.name_to_excluded[key] if each]]
        for key, value in numbers.items()
        if value is not None
    }


def record_pending(logger: Logger, saved: Mapping[str, Any]) -> None:
    """Records again what `pending_metrics` returned.

    Raises:
        ValueError, TypeError, AttributeError: it returned no such thing.
    """
    for key, (value, excluded) in saved.items():
        logger.record(key, value if isinstance(value, int) else float(value), tuple(map(str, excluded)))


def start_wandb(
    run_dir: Path,
    config: Mapping[str, Any],
    *,
    mode: Mode | None,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
    steps_key: str = STEPS,
    is_training: bool = True,
) -> WandbWriter | None:
    """Starts, or goes on with, the W&B run of a run directory; its id is made of the folder's name.

    Where "online" is asked for but there is no login, or no server answers, the run is recorded offline, with a
    warning. `wandb sync RUN/wandb/offline-run-*` sends such runs later, the parts of a resumed one in their order.

    Args:
        run_dir: The run directory; W&B's own files go into its `wandb/`.
        config: The resolved configuration.
        mode: None means online where a login exists and else offline.
        project: W&B project.
        entity: W&B user or team.
        group: W&B group.
        tags: W&B tags.
        steps_key: Name of the metric that counts the steps.
        is_training: Keep, for a resume, up to which step W&B has the rows.

    Returns:
        A writer, or None if tracking is disabled or W&B failed to start.
    """
    run_dir = run_dir.resolve()  # "." has the name of its folder
    name = _valid_name(f"{run_dir.parent.name}-{run_dir.name}")
    try:
        mode = default_mode() if mode is None else mode
        if mode == "disabled":
            return None
        run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            config=dict(config),
            dir=str(run_dir),
            id=name,
            name=name,
            mode=_possible(mode),
            resume="allow",
            allow_val_change=True,  # a resumed run may train for longer
            reinit="create_new",  # a run that the caller's own script has under way is not ours to log to
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=UPLOAD_SECONDS,
            ),
        )
    except Exception as error:  # as in WandbWriter: a mirror
        why = without_passwords(str(error))
        warnings.warn(f"Weights & Biases could not start; training goes on without it: {why}", stacklevel=2)
        return None
    return WandbWriter(run, steps_key, run_dir / "wandb" / "sent_steps" if is_training else None)


def default_mode() -> Mode:
    """Returns `WANDB_MODE`, else "online" where a W&B login exists, else "offline"; asks nobody and no network."""
    chosen = wandb_mode()
    if chosen is not None:
        return chosen
    return "online" if _has_login() else "offline"


def _possible(mode: Mode) -> Mode:
    if mode != "online":
        return mode
    if not _has_login():
        reason = "there is no login (`wandb login` makes one)"
    elif not _answers(_server()):
        reason = f"{without_passwords(_server())} does not answer"
    else:
        return mode
    warnings.warn(f"Weights & Biases records this run offline, for `wandb sync` to send: {reason}", stacklevel=3)
    return "offline"


def _server() -> str:
    return str(wandb.setup().settings.base_url)


def _has_login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.setup().settings.api_key:
        return True
    public = wandb.Settings().base_url
    # W&B's public server changed its name; logins made under the old one are still good.
    names = (_server(), "https://api.wandb.ai") if _server() == public else (_server(),)
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(urlsplit(name).netloc.rpartition("@")[2]) for name in names)


def _answers(url: str) -> bool:
    """Whether a server is there, through a proxy if one is set; W&B would try for a minute and then lose the run."""
    try:
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        error.close()
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # W&B may trust certificates that Python does not know
    except (OSError, ValueError):
        return False
    return True


def _valid_name(name: str) -> str:
    # From its end, where the parts of a run's name are that no other run has.
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[-ID_LENGTH:]


def _to_wandb(value: Any) -> Any:
    """Converts what SB3's logger takes; None for text and whatever else is no metric."""
    match value:
        case Video():
            return [_gif(frames, value.fps) for frames in value.frames]
        case Figure():
            import matplotlib.pyplot  # noqa: F401  (W&B looks for it without importing it)

            return wandb.Image(value.figure)
        case Image():
            order = {letter: axis for axis, letter in enumerate(value.dataformats)}
            axes = [order[letter] for letter in "NHWC" if letter in order]
            pixels = _pixels(value.image).transpose(axes)
            return [wandb.Image(each) for each in pixels] if "N" in order else wandb.Image(pixels)
        case torch.Tensor() | np.ndarray() if value.ndim > 0:
            return wandb.Histogram(torch.as_tensor(value).detach().flatten().tolist())
    return number(value)


def _gif(frames: torch.Tensor, fps: float) -> Any:
    """Encodes frames `[T, C, H, W]`; W&B itself could only with moviepy."""
    from PIL import Image as Picture

    pixels = _pixels(frames).transpose(0, 2, 3, 1)
    pictures = [Picture.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in pixels]
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0)
    return wandb.Video(content, format="gif")


def _pixels(image: Any) -> np.ndarray:
    """As TensorBoard: bytes are what they are, other numbers are from 0 to 1."""
    array = torch.as_tensor(image).detach().cpu().numpy()
    return array if array.dtype == np.uint8 else (array.astype(np.float32) * 255).clip(0, 255).astype(np.uint8)
