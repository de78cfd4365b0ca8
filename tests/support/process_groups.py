"""Runs a function in several processes that form a `torch.distributed` process group."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 120


def run_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """Calls `function(*arguments)` in each of `size` forked processes and returns their results, by rank."""
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_run, args=(sender, Path(folder, "store"), rank, size, function, arguments)
            )
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        try:
            results = [pipe.recv() if pipe.poll(SECONDS) else (None, "no result in time") for pipe in pipes]
        except EOFError:
            for process in processes:
                process.join(SECONDS)  # a process closes its pipe before it has an exit code
            results = [(None, f"exit codes {[process.exitcode for process in processes]}")]
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    errors = [error for _, error in results if error]
    assert not errors, "\n".join(errors)
    return [value for value, _ in results]


def _run(sender: Any, store: Path, rank: int, size: int, function: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", store=dist.FileStore(str(store), size), rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
        sender.send((function(*arguments), None))
    except BaseException:
        sender.send((None, f"rank {rank}: {traceback.format_exc()}"))
