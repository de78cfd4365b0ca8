"""Sweeps of real trainings in processes that are killed, stopped and started side by side."""

import csv
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import optuna
import pytest

from command_line import as_json, refused, run
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.engines import local
from ntm_rl.agents.engines.local import InProcessEngine
from ntm_rl.agents.sweeps import seed_job, sweep
from ntm_rl.agents.sweeps.storage import open_storage
from sessions import kill_session, session, start
from small_trainings import TINY_LSTM, TINY_PPO
from sweeps import peak_at
from waiting import wait_until

SPACE = "ppo.learning_rate: {low: 1e-4, high: 1e-2, log: true}\nppo.gamma: [0.9, 0.99]\n"
TRAINING = (*TINY_PPO, *TINY_LSTM, "total_timesteps=512", "ppo.stats_window_size=5", "checkpoint.every=64")

pytestmark = [pytest.mark.usefixtures("in_an_empty_folder"), pytest.mark.timeout(2400)]


def words(*options: str) -> list[str]:
    Path("space.yaml").write_text(SPACE)
    return ["sweep", "CartPole-v1", "space.yaml", *TRAINING, *options]


def rows(out: str) -> list[dict[str, str]]:
    with Path(out, "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def results(out: str) -> int:
    return len(list(Path(out).glob("trials/*/seed*.json")))


def runs_per_seed(out: str) -> Counter[str]:
    """Counts the runs of each training."""
    folders = Path(out).glob("trials/*/*-seed*-????")
    return Counter(f"{path.parent.name}/{path.name.split('-')[2]}" for path in folders)


def test_a_killed_sweep_continues_with_the_same_command_and_its_result_trains(capsys):
    command = words("--trials", "1", "total_timesteps=2048", "--out", "out")
    process = start(*command, log=Path("log"))
    wait_until(lambda: list(Path("out").glob("trials/0000/*/checkpoints/step-*")))
    kill_session(process)
    found = as_json(capsys, *command)
    assert (found["complete"], found["pruned"], found["failed"]) == (1, 0, 0)
    assert runs_per_seed("out") == {"0000/seed0": 1}  # resumed, not repeated
    best = rows("out")[found["best"]]
    again = as_json(capsys, "train", found["best_config"], "run_dir=again")
    assert again["mean_return"] == pytest.approx(float(best["seed 0"]), abs=1e-4)


def test_ctrl_c_stops_with_checkpoints_and_says_how_to_continue(capsys):
    command = words("--trials", "1", "total_timesteps=1e6", "checkpoint.every=1e6", "--out", "out")
    process = start(*command, log=Path("log"))
    wait_until(lambda: list(Path("out").glob("trials/*/*/progress.csv")))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Stopped by SIGINT. Run the same command to continue." in Path("log").read_text()
    assert list(Path("out").glob("trials/0000/*/checkpoints/step-*")) and not Path("out/best.yaml").exists()


def test_ctrl_c_while_trainings_import_their_libraries_prints_no_traceback():
    process = start(*words("--trials", "4", "--jobs", "2", "--out", "out"), log=Path("log"))
    wait_until(lambda: len(list(session(process.pid))) >= 4)  # with multiprocessing's resource tracker
    time.sleep(0.5)  # of the import, which takes seconds
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    log = Path("log").read_text()
    assert "Stopped by SIGINT" in log and "Traceback" not in log and "interrupted" not in log


def test_bad_input_is_one_line_and_makes_nothing(capsys):
    Path("bad.yaml").write_text("ppo.gama: [0.9]")
    words = ["sweep", "CartPole-v1", "--trials", "2", "--out", "out"]
    assert "unknown key. Did you mean ppo.gamma?" in refused(capsys, *words, "bad.yaml")
    assert "no such file; the packaged search spaces are" in refused(capsys, *words, "none.yaml")
    for storage, message in {
        "sqlite:///x.db": "SQLite loses trials",
        "mysql://me:secret@host/x": "must be a file or postgresql://",
        "postgresql://me:secret@localhost:1/x": "cannot be used: connection failed",
        "bad.yaml": "not a journal of Optuna",
    }.items():
        line = refused(capsys, *words, "ppo", "--storage", storage)
        assert message in line and "secret" not in line
    assert not Path("out").exists()


def test_a_missing_package_is_one_line_with_the_extra(capsys, monkeypatch):
    from ntm_rl.agents.sweeps import requirements

    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert 'pip install "ntm-rl[sweep]"' in refused(capsys, "sweep", "CartPole-v1", "ppo", "--trials", "2")


@pytest.mark.slow
def test_twenty_trials_killed_five_times_are_those_of_an_undisturbed_sweep(capsys):
    command = words("--trials", "20")
    generator = random.Random(0)
    for number in range(5):
        process = start(*command, "--out", "often", log=Path("log"))
        goal = 3 * (number + 1)
        wait_until(lambda goal=goal: results("often") >= goal, 600)
        time.sleep(3 * generator.random())
        kill_session(process)
    found = as_json(capsys, *command, "--out", "often")
    assert (found["complete"], len(rows("often"))) == (20, 20)
    assert len(list(Path("often").glob("trials/*/seed0.json"))) == 20
    undisturbed = as_json(capsys, *command, "--out", "once")
    assert rows("often") == rows("once") and found["score"] == undisturbed["score"]
    assert main(["train", found["best_config"], "run_dir=again"]) == 0


def check_shared(out: str, options: list[str], n_trials: int, n_processes: int) -> None:
    """Runs a sweep in several processes and checks that no trial was lost or trained twice."""
    command = words("--trials", str(n_trials), "--out", out, *options)
    processes = [start(*command, log=Path(f"log{number}")) for number in range(n_processes)]
    wait_until(lambda: all(process.poll() is not None for process in processes), 900, interval=0.5)
    logs = [Path(f"log{number}").read_text() for number in range(n_processes)]
    assert [process.returncode for process in processes] == [0] * n_processes, logs
    assert [row["state"] for row in rows(out)] == ["complete"] * n_trials
    assert len(runs_per_seed(out)) == n_trials and set(runs_per_seed(out).values()) == {1}
    assert sum(log.count(" are finished;") for log in logs) == n_trials  # each trial by one process
    assert sum("trial " in log for log in logs) == n_processes


@pytest.mark.slow
def test_four_processes_share_one_journal():
    check_shared("out", [], 12, 4)
    study = optuna.load_study(study_name="out", storage=open_storage(None, Path("out")))
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 12


class Server(NamedTuple):
    """A database server."""

    url: str
    stop: Callable[[], None]


@pytest.fixture
def postgres() -> Iterator[Server]:
    """A PostgreSQL server that runs as an unprivileged user in a temporary folder."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or shutil.which("runuser") is None:
        pytest.skip("PostgreSQL's server or runuser is not installed")
    folder = Path("/tmp") / f"ntm-rl-postgres-{random.randrange(10**9)}"
    subprocess.run(["install", "-d", "-o", "nobody", str(folder)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def execute(program: str, *arguments: str) -> None:
        command = ["runuser", "-u", "nobody", "--", str(programs[-1] / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder)

    try:
        execute("initdb", "-D", f"{folder}/data", "-U", "sweeper", "--auth=trust", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        execute("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
        stop = partial(execute, "pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
        yield Server(f"postgresql://sweeper:secret@127.0.0.1:{port}/postgres", stop)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"PostgreSQL does not start: {error.stderr.decode()}")
    finally:
        if (folder / "data/postmaster.pid").exists():
            stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_database_is_a_storage(postgres, capsys, monkeypatch):
    monkeypatch.setattr(seed_job, "train_or_resume", peak_at(1e-3))
    monkeypatch.setattr(local, "ProcessEngine", lambda jobs: InProcessEngine())
    monkeypatch.setattr(sweep, "draw_pictures", lambda study, out: [])
    command = words("--trials", "3", "--out", "shared", "--storage", postgres.url)
    found = as_json(capsys, *command)
    assert found["complete"] == 3
    assert "secret" not in Path("shared/sweep.json").read_text() + Path("shared/best.yaml").read_text()
    assert as_json(capsys, *command) == found  # nothing is left to do
    assert "belongs to another sweep" in refused(
        capsys, *words("--trials", "1", "--out", "b/shared", "--storage", postgres.url)
    )


def test_a_database_that_is_lost_is_one_line(postgres, capsys, monkeypatch):
    def train(settings, config, *, show_progress):
        if config == "0001":
            postgres.stop()
        return peak_at(1e-3)(settings, config, show_progress=show_progress)

    monkeypatch.setattr(seed_job, "train_or_resume", train)
    monkeypatch.setattr(local, "ProcessEngine", lambda jobs: InProcessEngine())
    code, _, error = run(capsys, *words("--trials", "3", "--out", "shared", "--storage", postgres.url))
    assert code == 2 and "does not answer: " in error and "run the same command to continue" in error
    assert "secret" not in error and "Traceback" not in error


@pytest.mark.slow
def test_four_processes_share_one_database(postgres):
    check_shared("shared", ["--storage", postgres.url], 8, 4)
