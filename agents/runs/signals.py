"""Signals that ask a training to end."""

import multiprocessing
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from ntm_rl.agents.parallel.launched import is_launched

if TYPE_CHECKING:
    from ntm_rl.agents.parallel.ranks import Ranks

REPEAT_SECONDS = 2.0  # a terminal and the launcher both send a signal to every rank
SIGNAL_BASE = 128  # as in a shell: the exit code of a process ended by signal n is 128 + n
NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
HANDLED = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows lacks some


class SignalListener:
    """Records SIGINT, SIGTERM, SIGUSR1 or SIGHUP, which would end the process; a second one raises KeyboardInterrupt.

    Slurm's `--signal=USR1@seconds` sends SIGUSR1 before a pre-emption. SIGHUP is sent when a terminal or connection
    closes, and stays ignored under `nohup`.

    A context manager that restores the old handlers. A signal recorded by one of two nested listeners counts for the
    other too. Does nothing outside the main thread, as Python handles signals only there.

    Attributes:
        received: The signal received, if any.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._first_time = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in HANDLED:
            if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                continue
            before = self._before[number] = signal.signal(number, self._on_signal)
            if (outer := _listener(before)) is not None:
                self.received = self.received or outer.received
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
            if (outer := _listener(handler)) is not None:
                outer.received = outer.received or self.received

    def agree(self, ranks: "Ranks") -> bool:
        """Whether any rank has received a signal, which then counts as received on all; all ranks must call it."""
        number = ranks.largest(self.received or 0)
        self.received = signal.Signals(number) if number else None
        return number > 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is not None and not (is_launched() and now - self._first_time < REPEAT_SECONDS):
            raise KeyboardInterrupt
        if self.received is None:
            self._first_time = now
            self.received = signal.Signals(number)


def end_on_signals() -> None:
    """Lets the signals end this process at once, also in an exchange with other ranks; for ranks that save nothing."""
    for number in HANDLED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def end_with_parent() -> None:
    """Sends this process, which `multiprocessing` has started, SIGTERM when its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _listener(handler: Any) -> SignalListener | None:
    """Returns the listener of a signal handler, if any."""
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, SignalListener) else None
