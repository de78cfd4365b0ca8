"""The part of the Ray engine that runs on the nodes of the cluster."""

import os
import platform
from pathlib import Path
from tempfile import TemporaryDirectory

from ntm_rl.agents.engines.jobs import Job, Outcome, lock
from ntm_rl.agents.engines.local import ProcessEngine
from ntm_rl.agents.runs.changes import find_changes
from ntm_rl.agents.runs.signals import SignalListener
from ntm_rl.agents.training import package_versions
from ntm_rl.errors import InputError

RESTARTS = 3  # of a job whose process is killed; Ray itself restarts jobs of lost nodes and workers
POLL_SECONDS = 0.5
MAX_LOG = 20_000  # bytes of a job's standard error that the driver shows


def check_node(marker: Path, versions: dict[str, str]) -> str | None:
    """Returns why this node cannot run jobs, or None if it can.

    Args:
        marker: A file in the shared folder, which the driver has locked.
        versions: The driver's `package_versions`.
    """
    changes = find_changes(versions, package_versions())
    if changes:
        key, (old, new) = next(iter(changes.items()))
        return f"has {key} {new} instead of {old}; install the driver's versions on every node"
    try:
        with marker.open("r+") as file:
            lock(file, marker)
    except BlockingIOError:
        return None
    except FileNotFoundError:
        return f"does not see the folder {marker.parent}; all nodes must share it under this path"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"cannot use the folder {marker.parent}: {error.strerror}"
    return f"the file system of {marker.parent} shares no locks between nodes; mount it with locks (see the guide)"


def run_on_node(job: Job, marker: Path, versions: dict[str, str], folder: str) -> tuple[Outcome, str]:
    """Runs a job in a process of this node; returns its outcome, and its errors if it failed.

    SIGINT, by which Ray cancels a task, and SIGTERM stop the job with a checkpoint.

    Args:
        job: The job.
        marker: See `check_node`.
        versions: See `check_node`.
        folder: Working folder of the job, if this node has it.
    """
    refusal = check_node(marker, versions)
    if refusal is not None:
        return Outcome.FAILED, f"node {platform.node()}: {refusal}"
    if Path(folder).is_dir():
        os.chdir(folder)
    with TemporaryDirectory() as logs, SignalListener() as listener:
        log = Path(logs, "stderr")
        engine = ProcessEngine(1, RESTARTS, log)
        engine.submit(job)
        while True:
            for _, outcome in engine.wait(POLL_SECONDS):
                return outcome, _tail(log) if outcome is Outcome.FAILED else ""
            if listener.received is not None:
                engine.stop()


def _tail(log: Path) -> str:
    """Returns the end of a log, from the beginning of a line."""
    text = log.read_bytes() if log.exists() else b""
    tail = text if len(text) <= MAX_LOG else text[-MAX_LOG:].partition(b"\n")[2]
    return tail.decode(errors="replace").rstrip("\n")
