"""The engine of a Ray cluster: each job is a Ray task, which trains in a process of its node in a shared folder."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import Any, Self

from ntm_rl.agents.engines.jobs import Engine, Job, Outcome, lock
from ntm_rl.agents.engines.ray_node import run_on_node
from ntm_rl.agents.storage.files import WriteError, make_output_folder
from ntm_rl.agents.training import package_versions
from ntm_rl.errors import InputError

MAX_PORT = 65535
CONNECT_SECONDS = 5.0
STATUS_SECONDS = 30.0  # `ray status` itself waits for minutes
NODE_SECONDS = 120.0  # a node imports torch for the check
OBJECT_STORE_BYTES = 100 * 2**20  # for the outcomes of jobs; Ray's default is a third of the memory


class RayEngine(Engine):
    """Runs each job as a task of a Ray cluster, again from its last checkpoint if its node or worker is lost.

    Args:
        folder: Folder of the jobs, which all nodes must share under the same path, with file locks.
        jobs: Number of jobs that run at a time; None: as many as the cluster has CPUs and GPUs for.
        address: `HOST:PORT` of the head of a cluster to which this machine belongs; None: Ray on this machine, which
            ends with the engine.
        cpus: CPUs that each job reserves.
        gpus: GPUs that each job reserves; a fraction shares one.

    Raises:
        InputError: Ray is not installed, or a number is invalid; on entering: the cluster cannot be reached, or a node
            cannot run the jobs.
    """

    def __init__(
        self, folder: Path, jobs: int | None = None, address: str | None = None, *, cpus: int = 1, gpus: float = 0
    ) -> None:
        if address is None and jobs is None:
            jobs = 1
        for key, number, least in (("jobs", jobs, 1), ("cpus", cpus, 1), ("gpus", gpus, 0)):
            if number is not None and number < least:
                raise InputError(f"{key} = {number}: must be at least {least}")
        if gpus > 1 and gpus != int(gpus):
            raise InputError(f"gpus = {gpus}: must be an integer, or below 1 for jobs that share a GPU")
        self._ray, self._address = _require_ray(), address
        self._folder, self._jobs, self._cpus, self._gpus = folder.resolve(), jobs, cpus, gpus
        self._running: dict[Any, Job] = {}  # by the reference of the task's result
        self._stopping: set[Any] = set()
        self._stack = ExitStack()
        self._run: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._ray.shutdown)
            with _kept_sigterm_handler():
                self._connect()
            marker = stack.enter_context(_locked_marker(self._folder))
            versions = package_versions()
            self._check_resources()
            self._check_nodes(marker, versions)
            task = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=-1)(run_on_node)
            self._run = lambda job: task.remote(job, marker, versions, str(Path.cwd()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self.stop()
            while self._running and kind is not KeyboardInterrupt:
                self.wait(1.0)

    @property
    def capacity(self) -> int:
        """The number of jobs, at least one, for which the cluster has CPUs and GPUs now."""
        return self._jobs or max(1, sum(self._slots(node) for node in self._nodes()))

    def submit(self, job: Job) -> None:
        """Submits a task, which Ray starts when a node has the CPUs and GPUs."""
        self._running[self._run(job)] = job

    def wait(self, seconds: float) -> Sequence[tuple[Job, Outcome]]:
        """Waits until a task ends."""
        if not self._running:
            time.sleep(seconds)
            return []
        ended, _ = self._ray.wait(list(self._running), timeout=seconds)
        jobs = [self._running.pop(task) for task in ended]
        self._stopping.difference_update(ended)
        return [(job, self._outcome(task, job)) for task, job in zip(ended, jobs, strict=True)]

    def stop(self, job: Job | None = None) -> None:
        """Cancels tasks; a job that runs writes a checkpoint first."""
        for task, each in self._running.items():
            if (job is None or each == job) and task not in self._stopping:
                self._stopping.add(task)
                self._ray.cancel(task)

    def _outcome(self, task: Any, job: Job) -> Outcome:
        outcome, errors = Outcome.FAILED, ""
        try:
            outcome, errors = self._ray.get(task)
        except self._ray.exceptions.TaskCancelledError:
            outcome = Outcome.STOPPED
        except self._ray.exceptions.RayError as error:
            errors = f"{job.name}: {_last_line(error)}"
        if errors:
            print(errors, file=sys.stderr)
        return Outcome.FINISHED if job.is_finished() else outcome

    def _connect(self) -> None:
        """Connects to the cluster, or starts Ray on this machine."""
        if self._address is not None:
            _check_address(self._address)
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_worker_niceness", "0")  # as the local engine; Ray's default is 15
        own = {"num_cpus": (self._jobs or 1) * self._cpus, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            self._ray.init(
                address=self._address or "local",
                include_dashboard=False if self._address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(own if self._address is None else {}),
            )
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            if self._address is None:
                raise InputError(f"Ray does not start on this machine: {_last_line(error)}") from error
            raise InputError(f"address = {self._address!r}: {_explain(error)}") from error

    def _nodes(self) -> list[Mapping[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _slots(self, node: Mapping[str, Any]) -> int:
        """Returns the number of jobs for which a node has CPUs and GPUs."""
        has = node["Resources"]
        slots = int(has.get("CPU", 0) // self._cpus)
        if 0 < self._gpus < 1:
            return min(slots, int(has.get("GPU", 0)) * int(1 / self._gpus))
        return min(slots, int(has.get("GPU", 0) // self._gpus)) if self._gpus else slots

    def _check_resources(self) -> None:
        if any(self._slots(node) for node in self._nodes()):
            return
        needs = f"cpus = {self._cpus}, gpus = {self._gpus:g}"
        if self._address is None:
            raise InputError(f"{needs}: this machine does not have them")
        print(f"{needs}: no node of the cluster has them; waiting for one", file=sys.stderr)

    def _check_nodes(self, marker: Path, versions: dict[str, str]) -> None:
        """Raises an `InputError` for the first node that cannot run the jobs."""
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy

        def check_on_node(marker: Path, versions: dict[str, str]) -> str | None:  # sent by value: fails without ntm-rl
            from ntm_rl.agents.engines.ray_node import check_node

            return check_node(marker, versions)

        task = self._ray.remote(num_cpus=0)(check_on_node)
        checks = []
        for node in self._nodes():
            on_node = task.options(scheduling_strategy=strategy(node["NodeID"], soft=False))
            checks.append((node["NodeManagerHostname"], on_node.remote(marker, versions)))
        for host, check in checks:
            try:
                refusal = self._ray.get(check, timeout=NODE_SECONDS)
            except self._ray.exceptions.RayError as error:
                refusal = f"cannot run ntm-rl: {_last_line(error)}; install the driver's versions on every node"
            if refusal is not None:
                raise InputError(f"node {host}: {refusal}")


def _require_ray() -> Any:
    """Returns the module.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import_module("ray.util.scheduling_strategies")
        return import_module("ray")
    except ImportError as error:
        raise InputError(f'engine = ray needs Ray ({error}); run: pip install "ntm-rl[cluster]"') from error


def _check_address(address: str) -> None:
    """Raises an `InputError` if no Ray cluster answers, for which `ray.init` would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError(f"address = {address!r}: must be HOST:PORT of the head, as in `ray start --address`")
    if len(port) > len(str(MAX_PORT)) or not 1 <= int(port) <= MAX_PORT:
        raise InputError(f"address = {address!r}: port {port}: must be 1 to {MAX_PORT}")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"address = {address!r}: cannot be reached ({reason}); is the head running?") from error
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    with suppress(subprocess.TimeoutExpired):
        status = subprocess.run(command, capture_output=True, text=True, timeout=STATUS_SECONDS)
        if status.returncode == 0:
            return
        if "AuthenticationError" in status.stderr:
            raise InputError(
                f"address = {address!r}: the cluster needs another authentication token; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its nodes"
            )
    raise InputError(f"address = {address!r}: no Ray cluster answers; give the port of `ray start --head` (6379)")


@contextmanager
def _locked_marker(folder: Path) -> Iterator[Path]:
    """Makes a locked file, by which the nodes check that they share the folder and its locks."""
    make_output_folder(folder)
    for path in folder.glob(".ray-*.lock"):  # of drivers that were killed
        with suppress(OSError, InputError), path.open("r+") as file:
            lock(file, path)
            path.unlink()
    try:
        marker = NamedTemporaryFile(prefix=".ray-", suffix=".lock", dir=folder)  # noqa: SIM115
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror}") from error
    with marker:
        path = Path(marker.name)
        lock(marker.file, path)
        yield path


@contextmanager
def _kept_sigterm_handler() -> Iterator[None]:
    """Restores the handler of SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _explain(error: BaseException) -> str:
    """Returns why `ray.init` has not joined a cluster that answers."""
    cause = error.__cause__ or error
    if "No node info found" in str(cause):
        return "this machine is no node of the cluster; run `ray start --address=...` on it, or the command on a node"
    return " ".join(str(cause).split()) if "Version mismatch" in str(cause) else _last_line(cause)


def _last_line(error: BaseException) -> str:
    """Returns the last line of an error of Ray, which follows a traceback and explanations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
