"""Signals that ask a training to end."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNAL_BASE = 128  # a shell's convention: ended by signal n is exit code 128 + n
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
HANDLED = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has not all


class SignalListener:
    """Notes SIGINT, SIGTERM, SIGUSR1 or SIGHUP instead of dying from it; a second signal raises KeyboardInterrupt.

    SIGUSR1 is what Slurm's `--signal=USR1@seconds` sends before a pre-emption; SIGHUP comes where a terminal or
    connection closes, and stays ignored under `nohup`.

    Used as a context manager, which restores the old handlers. A signal that an enclosing listener has noted counts for
    the inner one too. Does nothing outside the main thread, the only one that Python lets handle signals.

    Attributes:
        received: The signal that came, if one did.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in HANDLED:
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                continue
            before = self._before[number] = signal.signal(number, self._on_signal)
            outer = getattr(before, "__self__", None)
            if isinstance(outer, SignalListener):
                self.received = self.received or outer.received
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
