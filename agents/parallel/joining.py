"""Joins the ranks that torchrun or `processes=N` started."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ntm_rl.agents.parallel.launched import is_launched
from ntm_rl.agents.parallel.ranks import SINGLE, RankLostError, Ranks

ANSWER_SECONDS = 600.0  # a rank that does not answer for longer is lost
_RUN, _FAILURE = "ntm_rl/run", "ntm_rl/exit code"


def join(answer_seconds: float = ANSWER_SECONDS) -> Ranks:
    """Returns the ranks of this training; the first call connects the processes that a launcher started.

    A process group that exists already is used.

    Args:
        answer_seconds: Seconds after which a rank that does not answer is lost.

    Raises:
        RankLostError: the others do not join within that time.
    """
    if not dist.is_available() or not (dist.is_initialized() or is_launched()):
        return SINGLE
    if not dist.is_initialized():
        _connect(timedelta(seconds=answer_seconds))
    return Ranks(dist.get_rank(), dist.get_world_size())


def local_device() -> torch.device | None:
    """Returns the GPU of this rank; None if there is only one process, or a rank of this host has no GPU."""
    if not is_launched() or torch.cuda.device_count() < int(os.environ["LOCAL_WORLD_SIZE"]):
        return None
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def _connect(timeout: timedelta) -> None:
    device = local_device()
    if device is not None:
        torch.cuda.set_device(device)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # The launcher's store outlives a restart, and with it the addresses of processes that have ended.
    attempt = f"{os.environ['TORCHELASTIC_RESTART_COUNT']}/{size}"
    backend = "cpu:gloo" if device is None else "cpu:gloo,cuda:nccl"
    try:
        store = dist.PrefixStore(attempt, _store(timeout))  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except RuntimeError as error:
        raise RankLostError(
            f"rank {rank} of {size}: the ranks cannot be connected: {str(error).splitlines()[0]}; between hosts, "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface"
        ) from error


def _store(timeout: timedelta = timedelta(seconds=60)) -> Any:
    """Returns the launcher's key-value store."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timeout,
        wait_for_workers=False,
    )


def started_run() -> str | None:
    """Returns the folder of the run that this launch has started before a restart, if any."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    store = _store()
    return store.get(_RUN).decode() if store.check([_RUN]) else None


def remember_run(path: str) -> None:
    """Stores the folder of the run, from which the ranks resume after a restart."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _store().set(_RUN, path)


def announce_failure(code: int) -> None:
    """Tells the other ranks, which will lose this one, the exit code of this process."""
    _store().set(f"{_FAILURE} {os.environ['TORCHELASTIC_RESTART_COUNT']}", str(code))


def announced_failure() -> int | None:
    """Returns the exit code that another rank announced, if any."""
    key = f"{_FAILURE} {os.environ['TORCHELASTIC_RESTART_COUNT']}"
    try:
        store = _store(timedelta(seconds=5))
        return int(store.get(key)) if store.check([key]) else None
    except RuntimeError:  # the launcher has ended
        return None
