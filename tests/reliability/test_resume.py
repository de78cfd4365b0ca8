"""Trainings that die and go on end as those that were left alone; hostile files; many trainings at once."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.runs import run as runs
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.tracking.csv_log import read_table
from small_trainings import TINY_NTM, TINY_PPO

HERE = Path(__file__).parent


def python(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


def test_trainings_survive_kills_and_other_faults_with_an_identical_result():
    """The soak, for three quarters of a minute; `make soak` runs it for an hour."""
    done = python(str(HERE / "soak.py"), "--minutes", "0.75", "--seed", "7")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["checkpoints lost"] == 0
    assert summary["kills survived"] >= 1 and summary["trainings finished with an identical result"] >= 1


def test_hostile_files_are_refused_or_usable():
    """The fuzz target on 4,000 inputs; `make fuzz` runs it on a million."""
    done = python(str(HERE / "fuzz.py"), "--inputs", "4000", "--seed", "7")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert sum(counts.values()) == 4000 and counts["agent: refused"] and counts["copy: refused"]


def test_24_trainings_that_begin_at_once_from_one_config_have_a_folder_each(tmp_path):
    script = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
import soak, soak_training
arguments = ["train", *soak.SCENARIOS["cards"], "total_timesteps=256", "run_dir={tmp_path}/runs"]
children = []
for _ in range(24):
    if not (child := os.fork()):
        os._exit(soak_training.main(arguments))
    children.append(child)
sys.exit(any(soak_training.wait(child) for child in children))
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    folders = list(tmp_path.glob("runs/*/*/*"))
    assert len(folders) == 24
    clocks = ("time/fps", "time/time_elapsed")
    tables = [[{**row, **dict.fromkeys(clocks)} for row in read_table(each / "progress.csv")[1]] for each in folders]
    assert len(tables[0]) == 2 and all(table == tables[0] for table in tables)
    assert all((each / "agent" / "weights.safetensors").is_file() for each in folders)


def test_folders_are_distinct_even_where_the_random_letters_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.string, "ascii_lowercase", "abc")  # 81 names a second for 24 trainings
    settings = load_settings("popgym/repeat_previous_easy", [f"run_dir={tmp_path}"])
    barrier = Barrier(24)

    def create(_):
        barrier.wait()
        return Run.create(settings, "x").path

    with ThreadPoolExecutor(24) as pool:
        assert len(set(pool.map(create, range(24)))) == 24


def test_a_run_that_died_before_its_first_checkpoint_begins_anew(tmp_path, capsys):
    tiny = (*TINY_PPO, *TINY_NTM, "total_timesteps=192", f"run_dir={tmp_path}")
    assert main(["train", "popgym/repeat_previous_easy", *tiny]) == 0
    [run] = tmp_path.glob("*/*/*")
    before = read_table(run / "progress.csv")[1]
    for folder in ("checkpoints", "agent"):
        shutil.rmtree(run / folder)
    assert main(["resume", str(run)]) == 0
    assert "starts again: the run has no checkpoint yet" in capsys.readouterr().err
    after = read_table(run / "progress.csv")[1]
    clocks = ("time/fps", "time/time_elapsed")
    same = [[{**row, **dict.fromkeys(clocks)} for row in table] for table in (before, after)]
    assert same[0] == same[1] and len(after) == 3
