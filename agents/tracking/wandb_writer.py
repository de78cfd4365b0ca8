"""Logs to Weights & Biases in a thread; its errors are warnings and never stop a training."""

import queue
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
from stable_baselines3.common.logger import KVWriter

from ntm_rl.agents.settings.environment_variables import without_passwords
from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking.wandb_media import to_wandb

ID_LENGTH = 128  # the longest name that W&B takes
MAX_QUEUED = 10_000  # rows and agents in the queue
FINISH_SECONDS = 60.0  # timeout for emptying the queue at the end of a run


class WandbWriter(KVWriter):
    """Calls `run.log` once per dump, with environment steps as a metric instead of W&B's own step.

    W&B drops rows with a step below the last one, which a resumed run logs.

    Args:
        run: The W&B run.
        steps_key: Name of the metric that counts the steps.
        sent: File that stores the step of the last logged row; None for a run that is never resumed.
    """

    def __init__(self, run: Any, steps_key: str = PPO.steps_metric, sent: Path | None = None):
        self._run, self._steps_key, self._sent = run, steps_key, sent
        self._logged_until = -1  # last step that was logged before a resume
        self._works = True
        self._dropped: set[str] = set()
        self._error: Exception | None = None  # of the thread; the next call warns about it
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(MAX_QUEUED)
        self._thread = threading.Thread(target=self._run_thread, name="wandb", daemon=True)
        self._thread.start()
        self._enqueue(lambda: run.define_metric(steps_key))
        self._enqueue(lambda: run.define_metric("*", step_metric=steps_key))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """See `stable_baselines3.common.logger.KVWriter.write`."""
        if not self._works or step <= self._logged_until:
            return
        row = {key: self._convert(key, value) for key, value in key_values.items() if "wandb" not in key_excluded[key]}
        row = {key: value for key, value in row.items() if value is not None}

        def send() -> None:
            self._run.log({**row, self._steps_key: step})
            if self._sent is not None:
                self._sent.write_text(str(step))

        self._enqueue(send)

    def skip_logged_steps(self) -> None:
        """Skips the steps that were logged before a resume and that the training repeats after its checkpoint."""
        with suppress(OSError, ValueError):  # missing or incomplete: some rows are logged twice
            if self._sent is not None:
                self._logged_until = int(self._sent.read_text())

    def log_agent(self, name: str, folder: Path, aliases: list[str], metadata: Mapping[str, Any]) -> None:
        """Logs an exported agent as a new version of an artifact."""

        def send() -> None:
            artifact = wandb.Artifact(valid_name(name), type="model", metadata=dict(metadata))
            for path in sorted(folder.iterdir()):
                artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=aliases)

        self._enqueue(send)

    def close(self) -> None:
        """Finishes the run, also after an error; its data stays in the run directory."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._works = False  # the thread drops the queue
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._disable(TimeoutError(f"the queue was not sent within {FINISH_SECONDS:g} s"))
            return
        self._check_thread()
        try:
            self._run.finish()
        except Exception as error:
            self._disable(error)

    def _convert(self, key: str, value: Any) -> Any:
        try:
            return to_wandb(value)
        except Exception as error:  # keep the other metrics
            if key not in self._dropped:
                self._dropped.add(key)
                warnings.warn(
                    f"{key} cannot be logged to Weights & Biases and is skipped: {without_passwords(str(error))}",
                    stacklevel=3,
                )
            return None

    def _enqueue(self, action: Callable[[], object]) -> None:
        """Queues an action for the thread, so that the training does not wait for W&B."""
        self._check_thread()
        if not self._works:
            return
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self._disable(TimeoutError(f"{MAX_QUEUED} entries are queued"))

    def _run_thread(self) -> None:
        while (action := self._queue.get()) is not None:
            if not self._works:
                return
            try:
                action()
            except Exception as error:  # the run directory has all data
                self._error = error
                return

    def _check_thread(self) -> None:
        if self._error is not None:
            self._disable(self._error)

    def _disable(self, error: Exception) -> None:
        if self._works:
            self._works = False
            reason = without_passwords(str(error))
            warnings.warn(
                f"Weights & Biases failed and is disabled for the rest of the training: {reason}", stacklevel=4
            )


def valid_name(name: str) -> str:
    """Returns a name with the characters and length that W&B accepts."""
    # The end of the name is unique.
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[-ID_LENGTH:]
