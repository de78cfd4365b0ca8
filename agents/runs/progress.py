"""The progress bar of a training."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class ProgressDisplay:
    """A progress bar on standard error with score, speed and remaining time.

    If standard error is not a terminal, it prints a line every half minute instead.

    Args:
        first: Number of steps before this process.
        total: Total number of steps.
        unit: Unit in the plural, such as "steps".
    """

    def __init__(self, first: int, total: int, unit: str):
        self._first, self._total, self._unit = first, total, unit
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_line = 0.0
        self._start_time = time.monotonic()
        if self._console.is_terminal:
            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=total, completed=first)
            self._bar.start()

    def update(self, done: int, score: str) -> None:
        """Shows the number of steps done and the score."""
        now = time.monotonic()
        speed = (done - self._first) / max(now - self._start_time, 1e-9)
        text = f"{done:,} {self._unit}  {score}  {speed:,.0f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = f"  {max(self._total - done, 0) / speed:,.0f} s left" if speed > 0 else ""
            self._console.print(f"{text}{left}", highlight=False)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
