"""The Ray engine on a cluster of several nodes on this machine."""

import csv
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file

from command_line import refused
from file_jobs import FileJob
from ntm_rl.agents.benchmark.cells import plan, read_result, read_results
from ntm_rl.agents.benchmark.grid import run_grid
from ntm_rl.agents.engines import ray_cluster
from ntm_rl.agents.engines.jobs import Outcome, lock, take_free
from ntm_rl.agents.engines.local import local_engine
from ntm_rl.agents.engines.ray_cluster import RayEngine
from ntm_rl.agents.engines.ray_node import check_node
from ntm_rl.agents.training import package_versions
from ntm_rl.errors import InputError
from small_trainings import TINY_LSTM, TINY_PPO
from waiting import wait_until

ray = pytest.importorskip("ray")
TINY = (*TINY_PPO, *TINY_LSTM, "checkpoint.every=64")
SUITE, TASK, BUDGET = "memory_len", "length-2", 64 * 30
COMMAND = ("benchmark", "memory", f"--suite={SUITE}", f"--tasks={TASK}", f"--timesteps={BUDGET}")
COMMAND += ("--cores=lstm", "--out=out")
COMMAND += tuple(f"--set={each}" for each in TINY)
SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(scope="module")
def cluster():
    """A head and a node with one CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(SUPPORT))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


def wait_for(engine, jobs):
    """Waits until the jobs have ended; returns their outcomes."""
    ended = {}
    wait_until(lambda: ended.update(engine.wait(1)) or len(ended) == len(jobs))
    return [ended[job] for job in jobs]


def test_jobs_finish_fail_and_stop_on_a_cluster(cluster, tmp_path, capfd):
    jobs = [FileJob(tmp_path / action, action) for action in ("write", "fail", "die_once", "wait")]
    waiting = jobs.pop()
    with RayEngine(tmp_path, address=cluster.address) as engine:
        assert engine.capacity == 2
        for job in (*jobs, waiting):
            engine.submit(job)
        assert wait_for(engine, jobs) == [Outcome.FINISHED, Outcome.FAILED, Outcome.FINISHED]
        assert len(jobs[2].processes()) == 2
        wait_until(waiting.processes)
        assert take_free([waiting]) is None
        engine.stop(waiting)
        assert wait_for(engine, [waiting]) == [Outcome.STOPPED]
        assert take_free([waiting]) is waiting
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "key = 1: no such key\n")
    assert not list(tmp_path.glob(".ray*"))


def test_missing_resources_and_a_node_without_the_shared_folder_are_named(cluster, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(ray_cluster, "_locked_marker", lambda folder: nullcontext(folder / "marker"))
    engine = RayEngine(tmp_path, address=cluster.address, cpus=64, gpus=0.5)
    with pytest.raises(InputError, match=rf"^node {platform.node()}: does not see the folder {tmp_path}; "):
        engine.__enter__()
    printed = capfd.readouterr().err.splitlines()  # Ray may add a line of its own when the driver leaves
    assert printed.count("cpus = 64, gpus = 0.5: no node of the cluster has them; waiting for one") == 1
    assert not ray.is_initialized()


def test_a_node_checks_the_folder_its_locks_and_versions(tmp_path):
    versions, marker = package_versions(), tmp_path / "marker"
    assert check_node(marker, versions).startswith(f"does not see the folder {tmp_path}; ")
    with marker.open("w") as file:
        assert check_node(marker, versions).startswith(f"the file system of {tmp_path} shares no locks between nodes")
        lock(file, marker)
        assert check_node(marker, versions) is None
        refusal = check_node(marker, {**versions, "torch": "1.0"})
    assert refusal == f"has torch {versions['torch']} instead of 1.0; install the driver's versions on every node"


def test_the_markers_of_killed_drivers_are_deleted(tmp_path):
    stale = tmp_path / ".ray-killed.lock"
    stale.touch()
    with ray_cluster._locked_marker(tmp_path) as first, ray_cluster._locked_marker(tmp_path) as second:
        assert {*tmp_path.iterdir()} == {first, second}
    assert not list(tmp_path.iterdir())


def cells(seeds):
    return plan(SUITE, ["lstm"], seeds, tasks=[TASK], timesteps=BUDGET, overrides=TINY)


def trained_on(node, out):
    """The process and run of the cell that a node trains, once it has a checkpoint."""
    raylet = f"RAY_RAYLET_PID={node.all_processes['raylet'][0].process.pid}".encode()
    for owner in out.glob("*/*/*/*/owner.json"):
        with suppress(OSError, ValueError):
            process = json.loads(owner.read_text())["pid"]
            environment = Path("/proc", str(process), "environ").read_bytes().split(b"\0")
            if raylet in environment and list(owner.parent.glob("checkpoints/step-*")):
                return process, owner.parent
    return None


def test_the_cell_of_a_lost_node_continues_on_another_with_the_result_of_the_local_engine(cluster, in_an_empty_folder):
    node, found = cluster.add_node(num_cpus=1), []  # the third node, so that each of the three cells has one

    def remove_node():
        wait_until(lambda: found.append(trained_on(node, Path("ray"))) or found[-1])
        cluster.remove_node(node, allow_graceful=False)
        return found[-1]

    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(remove_node)
        assert run_grid(cells(3), Path("ray"), RayEngine(Path("ray"), address=cluster.address)) is None
        process, run = removal.result()
    assert not Path("/proc", str(process)).exists()
    assert len(read_results(SUITE, Path("ray"))) == len(list(Path("ray").glob("*/*/*/*-seed*"))) == 3  # no cell twice
    rows = csv.DictReader((run / "progress.csv").read_text().splitlines())
    assert [int(row["time/total_timesteps"]) for row in rows] == list(range(64, BUDGET + 1, 64))  # nothing twice
    lost = read_result(run)
    assert run_grid([cell for cell in cells(3) if cell.seed == lost.seed], Path("local"), local_engine(1)) is None
    (local,) = read_results(SUITE, Path("local"))
    assert replace(lost, run=local.run, steps_per_second=local.steps_per_second) == local
    weights = [load_file(each / "agent" / "weights.safetensors") for each in (run, Path("local", local.run))]
    assert all(torch.equal(*pair) for pair in zip(*(each.values() for each in weights), strict=True))


def test_a_killed_driver_ends_ray_and_its_cells_continue(in_an_empty_folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "ntm_rl.agents", *COMMAND, "--seeds=1", "--engine=ray"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    try:
        wait_until(lambda: process.poll() is not None or list(Path("out").glob("*/*/*/*/checkpoints/step-*")))
        owner = json.loads(next(Path("out").glob("*/*/*/*/owner.json")).read_text())
    finally:
        process.kill()
        printed = process.communicate()[1]
    assert printed == ""
    wait_until(lambda: not Path("/proc", str(owner["pid"])).exists())
    assert run_grid(cells(1), Path("out"), local_engine(1)) is None
    assert len(list(Path("out").glob("*/*/*/*-seed*"))) == 1


@pytest.fixture(scope="module")
def http_server():
    """The port of a server that is no Ray cluster."""
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("head", "address = 'head': must be HOST:PORT of the head"),
        ("ray://head:10001", "address = 'ray://head:10001': must be HOST:PORT of the head"),
        ("127.0.0.1:99999", "address = '127.0.0.1:99999': port 99999: must be 1 to 65535"),
        ("127.0.0.1:0", "port 0: must be 1 to 65535"),
        ("127.0.0.1:1", r"address = '127.0.0.1:1': cannot be reached \(Connection refused\); is the head running\?"),
        ("no-such-host:6379", r"address = 'no-such-host:6379': cannot be reached \(.*not known\)"),
        ("127.0.0.1:HTTP", r"address = '127.0.0.1:\d+': no Ray cluster answers; give the port"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address, message, http_server, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "STATUS_SECONDS", 2)
    with pytest.raises(InputError, match=message):
        RayEngine(tmp_path / "out", address=address.replace("HTTP", str(http_server))).__enter__()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine=ray", "--jobs=0"], "jobs = 0: must be at least 1"),
        (["--engine=ray", "--cpus=0"], "cpus = 0: must be at least 1"),
        (["--engine=ray", "--gpus=-1"], "gpus = -1.0: must be at least 0"),
        (["--engine=ray", "--gpus=1.5"], "gpus = 1.5: must be an integer, or below 1 for jobs that share a GPU"),
        (["--address=head:6379"], "address = 'head:6379': needs --engine ray"),
        (["--gpus=0"], "gpus = 0.0: needs --engine ray"),
    ],
)
def test_invalid_options_are_refused(arguments, message, capsys, in_an_empty_folder):
    assert refused(capsys, *COMMAND, *arguments) == message
    assert not Path("out").exists()


def test_missing_ray_names_the_extra(capsys, monkeypatch, in_an_empty_folder):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused(capsys, *COMMAND, "--engine=ray").endswith('run: pip install "ntm-rl[cluster]"')
