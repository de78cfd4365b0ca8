"""What a training shows while it runs."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30.0


class ProgressDisplay:
    """A progress bar on standard error with a result, the speed and the time left.

    Where that is no terminal, a line every half minute instead.

    Args:
        first: Steps that were done before.
        total: Steps in all.
        unit: What a step is, in the plural.
    """

    def __init__(self, first: int, total: int, unit: str):
        self._first, self._total, self._unit = first, total, unit
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_line = 0.0
        self._began = time.monotonic()
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

    def update(self, done: int, result: str) -> None:
        """Shows how far a training has come, and with what result."""
        now = time.monotonic()
        speed = (done - self._first) / max(now - self._began, 1e-9)
        text = f"{done:,} {self._unit}  {result}  {speed:,.0f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = f"  {max(self._total - done, 0) / speed:,.0f} s left" if speed > 0 else ""
            self._console.print(f"{text}{left}", highlight=False)

    def close(self) -> None:
        """Takes the bar away; harmless where there is none."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
