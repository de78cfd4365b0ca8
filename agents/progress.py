"""What a training shows while it runs."""

import sys
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback


class ProgressCallback(BaseCallback):
    """A progress bar with the mean return, the speed and the time left, on standard error.

    Where that is no terminal, a line every half minute instead.
    """

    SECONDS_BETWEEN_LINES = 30.0

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_line = 0.0

    def _on_training_start(self) -> None:
        self._began = time.monotonic()
        self._first = self.model.num_timesteps
        self._total = self.model._total_timesteps
        if self._console.is_terminal:
            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=self._total, completed=self._first)
            self._bar.start()

    def _on_rollout_end(self) -> None:
        steps, now = self.model.num_timesteps, time.monotonic()
        speed = (steps - self._first) / max(now - self._began, 1e-9)
        episodes = self.model.ep_info_buffer or ()
        mean = f"return {np.mean([episode['r'] for episode in episodes]):.3f}" if episodes else "no episode yet"
        text = f"{steps:,} steps  {mean}  {speed:,.0f} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, description=text)
        elif now - self._last_line >= self.SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = max(self._total - steps, 0) / speed
            self._console.print(f"{text}  {left:,.0f} s left", highlight=False)

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away; harmless where there is none."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _on_step(self) -> bool:
        return True
