"""Metrics of a run: CSV and TensorBoard always, Weights & Biases as a mirror whose trouble stops nothing."""

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
from ntm_rl.agents.tracking.metrics import STEPS
from ntm_rl.agents.tracking.wandb_media import _to_wandb

ID_LENGTH = 128  # the longest name that W&B takes
MAX_WAITING = 10_000  # rows and agents that a slow server may leave waiting
FINISH_SECONDS = 60.0  # for these to be taken at the end of a run


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


def _valid_name(name: str) -> str:
    # From its end, where the parts of a run's name are that no other run has.
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[-ID_LENGTH:]
