"""Starts the processes of a data-parallel training on this machine with torch's elastic launcher."""

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from types import FrameType

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ntm_rl.agents.parallel.joining import announce_failure, announced_failure
from ntm_rl.agents.parallel.ranks import RankLostError
from ntm_rl.agents.runs.signals import HANDLED, SIGNAL_BASE
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.errors import InputError

RANK_LOST = 6  # exit code of `RankLostError`
STOPPING_SECONDS = 10  # that the ranks get to end before a restart
STOPPED_BY = "NTM_RL_STOPPED_BY"  # environment variable with the signal that ended the training

Command = Callable[[Sequence[str]], int]


def launch(settings: AnySettings, command: Command, arguments: Sequence[str]) -> int:
    """Runs a command in `settings.processes` processes and returns its exit code.

    Args:
        settings: Settings of the training.
        command: Runs the command line `arguments` and returns the exit code; a function of a module.
        arguments: Arguments of the command.

    Raises:
        InputError: more processes than cores or GPUs.
        RankLostError: a process was lost more than `settings.max_restarts` times.
    """
    _check(settings)
    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the ranks report what happens
    with TemporaryDirectory(prefix="ntm-rl-") as folder, _forwarded_signals():
        try:
            launcher = elastic_launch(_launch_config(settings, folder), run_rank)
            codes: dict[int, int] = launcher(command, list(arguments))
        except ChildFailedError as error:
            if STOPPED_BY in os.environ:  # it has ended a rank without a checkpoint
                return SIGNAL_BASE + int(os.environ[STOPPED_BY])
            rank, failure = error.get_first_failure()
            raise RankLostError(
                f"processes = {settings.processes}: rank {rank} ended with exit code {failure.exitcode} after "
                f"{settings.max_restarts} restarts; see its output above; `ntm-rl resume RUN` continues the training"
            ) from None
    return max(codes.values())


def _launch_config(settings: AnySettings, log_dir: str) -> LaunchConfig:
    return LaunchConfig(
        1,
        1,
        settings.processes,
        logs_specs=DefaultLogsSpecs(log_dir),
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=settings.max_restarts,
        signals_to_handle="SIGQUIT",  # the others end a training; see `_forwarded_signals`
        shutdown_timeout=STOPPING_SECONDS,
    )


def run_rank(command: Command, arguments: Sequence[str]) -> int:
    """Runs the command on one rank and returns its exit code; a lost rank makes the launcher restart all."""
    if STOPPED_BY in os.environ:  # a signal has ended a rank that was still starting, and the launcher has restarted it
        return SIGNAL_BASE + int(os.environ[STOPPED_BY])
    try:
        code = command(arguments)
    except Exception:
        traceback.print_exc()  # the launcher shows errors of the first rank only
        raise
    if code == 0:
        return code
    if code == RANK_LOST:
        other = announced_failure()
        if other is None:
            sys.exit(code)
        return other
    announce_failure(code)
    return code


def _check(settings: AnySettings) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if settings.processes > cores:
        raise InputError(f"processes = {settings.processes}: must be at most {cores}, the cores of this machine")
    if settings.device == "cpu" or not torch.cuda.is_available():
        return
    if settings.device.startswith("cuda:"):
        raise InputError(
            f"device = {settings.device!r}: with processes = {settings.processes} use cuda, for a GPU per process"
        )
    if settings.processes > torch.cuda.device_count():
        raise InputError(
            f"processes = {settings.processes}: must be at most {torch.cuda.device_count()}, the GPUs of this machine; "
            "device=cpu trains without them"
        )


@contextmanager
def _forwarded_signals() -> Iterator[None]:
    """Forwards the signals that end a training to the ranks, which write the last checkpoint."""

    def forward(number: int, frame: FrameType | None) -> None:
        os.environ[STOPPED_BY] = str(int(number))
        for process in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    before = {number: signal.signal(number, forward) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.environ.pop(STOPPED_BY, None)
