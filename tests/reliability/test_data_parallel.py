"""Data-parallel trainings from the command line: lost processes, signals, wrong input, and two hosts."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from command_line import run
from ntm_rl.agents.tracking.csv_log import read_table
from small_trainings import TINY_LSTM
from waiting import wait_until

SIZES = ("n_envs=4", "ppo.n_steps=32", "ppo.sequence_length=16", "ppo.batch_size=64", "ppo.n_epochs=1")
TRAINING = ("popgym/repeat_previous_easy", *TINY_LSTM, *SIZES, "wandb=disabled", "checkpoint.every=256")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "ntm_rl.agents",
        "train",
        *TRAINING,
        "processes=2",
        f"run_dir={folder}",
        *overrides,
    ]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ranks_of(process: subprocess.Popen) -> list[int]:
    children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
    return [int(line) for line in children.stdout.split()]


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.rglob("step-*.safetensors"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (run,) = folder.glob("popgym/*/*")
    return load_file(run / "agent" / "weights.safetensors")


def test_a_killed_process_restarts_all_and_the_weights_are_the_same(tmp_path):
    undisturbed = start(tmp_path / "whole", "total_timesteps=6400")
    printed = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, printed
    killed = start(tmp_path / "killed", "total_timesteps=6400")
    wait_until(lambda: checkpoints(tmp_path / "killed"))
    os.kill(ranks_of(killed)[-1], signal.SIGKILL)
    out, error = killed.communicate(timeout=120)
    assert killed.returncode == 0, error
    assert out.startswith("Finished after 6,400") and "lost another rank" in error and "resumes at" in error
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(expected[name], each) for name, each in weights(tmp_path / "killed").items())


def test_a_signal_ends_all_processes_with_one_checkpoint(tmp_path):
    process = start(tmp_path, "total_timesteps=10_000_000")
    wait_until(lambda: checkpoints(tmp_path))
    ranks = ranks_of(process)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, len(ranks)) == (128 + signal.SIGTERM, 2), error
    assert out.startswith("Stopped by SIGTERM after ")
    step = int(checkpoints(tmp_path)[-1].stem.removeprefix("step-"))
    assert f"after {step:,} environment steps" in out
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)


def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    code, out, error = run(capsys, "train", *TRAINING, "processes=3", f"run_dir={tmp_path}")
    assert (code, out) == (2, "")
    assert error.splitlines()[-1] == "processes = 3: must be at most 2, the cores of this machine"
    process = start(tmp_path, "n_envs=3", "ppo.batch_size=32")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.splitlines()[-1] == "n_envs = 3: must be a multiple of the number of processes, 2"
    assert not list(tmp_path.iterdir())


def namespaces(stack: ExitStack) -> tuple[str, str]:
    """Makes two connected network namespaces; skips the test where that is not allowed."""
    names = f"ntm{os.getpid()}a", f"ntm{os.getpid()}b"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        ip("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "name", "veth0", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces: {error}")
    return names


def start_hosts(names: tuple[str, str], *arguments: str) -> list[subprocess.Popen]:
    hosts = []
    for number, name in enumerate(names):
        launcher = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-id=test", "--rdzv-backend=c10d"]
        launcher += ["--rdzv-endpoint=10.77.0.1:29500", f"--rdzv-conf=is_host={1 - number}"]
        launcher += [f"--local-addr=10.77.0.{number + 1}"]
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *launcher]
        command += ["-m", "ntm_rl.agents", "train", *arguments]
        environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "veth0"}
        hosts.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return hosts


@pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2")
def test_two_hosts_train_together(tmp_path):
    with ExitStack() as stack:
        names = namespaces(stack)
        hosts = start_hosts(names, *TRAINING, "total_timesteps=512", f"run_dir={tmp_path}")
        printed = [host.communicate(timeout=120) for host in hosts]
        assert [host.returncode for host in hosts] == [0, 0], printed
        assert "Finished after 512" in printed[0][0] + printed[1][0]
        assert len(checkpoints(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs iproute2")
def test_two_hosts_solve_repeat_previous(tmp_path):
    with ExitStack() as stack:
        hosts = start_hosts(namespaces(stack), TRAINING[0], "wandb=disabled", f"run_dir={tmp_path}")
        printed = [host.communicate(timeout=3000) for host in hosts]
        assert [host.returncode for host in hosts] == [0, 0], printed
    (progress,) = tmp_path.rglob("progress.csv")
    assert float(read_table(progress)[1][-1]["rollout/ep_rew_mean"]) >= 0.95
