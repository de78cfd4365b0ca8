"""The grid of the memory benchmark, on trainings of a few hundred steps."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ntm_rl.agents.benchmark.cells import plan, read_results
from ntm_rl.agents.benchmark.grid import CellJob, check_folder, run_grid
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.engines.jobs import Outcome, locked, run_job
from ntm_rl.agents.engines.local import local_engine
from ntm_rl.agents.runs.run import Run
from ntm_rl.cores.registry import make_core
from ntm_rl.errors import InputError
from small_trainings import TINY_NTM, TINY_PPO
from waiting import wait_until

TINY = (
    *TINY_PPO,
    *TINY_NTM,
    "n_envs=4",
    "ppo.n_steps=64",
    "ppo.sequence_length=64",
    "ppo.batch_size=64",
    "checkpoint.every=256",
)
SUITE, TASK, BUDGET = "memory_len", "length-2", 512
OUT = Path("out")


pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def cells(cores: str = "ntm,lstm", seeds: int = 1, timesteps: int = BUDGET, overrides: tuple = (), **kwargs) -> list:
    kwargs.setdefault("tasks", [TASK])
    return plan(SUITE, cores.split(","), seeds, timesteps=timesteps, overrides=[*TINY, *overrides], **kwargs)


def command(*arguments: str, cores: str = "ntm,lstm", timesteps: int = BUDGET) -> list[str]:
    sizes = [f"--timesteps={timesteps}", f"--cores={cores}", f"--tasks={TASK}", "--out=out"]
    return ["benchmark", "memory", "--suite", SUITE, *sizes, *(f"--set={each}" for each in TINY), *arguments]


def runs() -> list[Path]:
    return sorted(OUT.glob("*/*/*/*-seed*"))


def test_a_grid_has_every_core_task_and_seed_at_about_the_same_size():
    planned = cells("ntm,lstm,gru,lstm", seeds=2, tasks=["length-5", TASK])
    assert [(cell.seed, cell.task, cell.core) for cell in planned] == [
        (seed, task, core) for seed in (0, 1) for task in ("length-5", TASK) for core in ("ntm", "lstm", "gru")
    ]
    for cell in planned:
        settings = cell.settings(OUT)
        assert (settings.seed, settings.core, settings.total_timesteps) == (cell.seed, cell.core, BUDGET)
        assert settings.env.kwargs["length"] == {"length-5": 5, TASK: 2}[cell.task]
        assert settings.tracking.group == f"memory-{SUITE}"
        sizes = [
            sum(each.numel() for each in make_core(core, 3, **made.core_kwargs).parameters())
            for core, made in ((cell.core, settings), ("ntm", planned[0].settings(OUT)))
        ]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_a_finished_grid_is_reported_and_not_trained_again(capsys):
    assert main(command("--seeds=2", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report.keys() == {"suite", "report", "interquartile_means", "comparison", "cells"}
    assert report["comparison"] is None
    assert [(cell["core"], cell["seed"]) for cell in report["cells"]] == [
        ("ntm", 0),
        ("ntm", 1),
        ("lstm", 0),
        ("lstm", 1),
    ]
    for cell in report["cells"]:
        run = Run.open(OUT / cell["run"])
        assert run.agent.is_dir() and run.settings().core == cell["core"]
        assert cell["timesteps"] == BUDGET and -1 <= cell["last"] <= cell["mmer"] <= 1
        assert cell["steps_per_second"] > 0 and cell["parameters"] > 100
    text = Path(report["report"]).read_text()
    assert "| length-2 | " in text
    for name in ("curves.png", "intervals.png"):
        assert (OUT / name).read_bytes().startswith(b"\x89PNG")
    before = runs()
    assert main(command("--seeds=2")) == 0
    printed = capsys.readouterr()
    assert "4 of 4 trainings are already finished" in printed.err and "# memory_len" in printed.out
    assert runs() == before and len(before) == 4
    # A grid may grow by seeds and cores.
    assert main(command("--seeds=1", cores="gru")) == 0
    assert len(runs()) == 5 and len(read_results(SUITE, OUT)) == 5


def test_a_signal_stops_the_grid_and_the_same_call_continues_it():
    lines = []

    def stop(line):
        lines.append(line)
        os.kill(os.getpid(), signal.SIGTERM)

    assert run_grid(cells(), OUT, local_engine(1), stop) is signal.SIGTERM
    assert len(lines) == 1 and lines[0].startswith("1 of 2: length-2, ntm, seed 0: MMER ")
    assert [result.core for result in read_results(SUITE, OUT)] == ["ntm"]
    assert run_grid(cells(), OUT, local_engine(1)) is None
    assert [result.core for result in read_results(SUITE, OUT)] == ["ntm", "lstm"]


def test_a_grid_with_automatic_sizes_is_continued():
    automatic = ("n_envs=auto", "ppo.n_steps=auto", "ppo.sequence_length=auto", "ppo.batch_size=auto")
    assert run_grid(cells("lstm", timesteps=4096, overrides=automatic), OUT, local_engine(1)) is None
    lines = []
    assert run_grid(cells(timesteps=4096, overrides=automatic), OUT, local_engine(1), lines.append) is None
    assert lines[0] == "1 of 2 trainings are already finished" and lines[1].startswith("2 of 2: length-2, ntm, seed 0")


def test_a_killed_grid_keeps_finished_cells_and_resumes_unfinished_ones(capsys):
    budget = 256 * 50  # some seconds, of which the second cell does not see the end
    process = subprocess.Popen(
        [sys.executable, "-m", "ntm_rl.agents", *command(timesteps=budget)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: list(OUT.glob("*/*/lstm/*/checkpoints/step-*")))
    process.kill()
    process.wait()
    (finished,) = OUT.glob("*/*/*/*/cell.json")
    (unfinished,) = OUT.glob("*/*/lstm/*/")
    written = finished.stat().st_mtime_ns
    assert finished.parents[1].name == "ntm"
    begun = max(int(path.stem.removeprefix("step-")) for path in (unfinished / "checkpoints").glob("step-*"))
    assert 0 < begun < budget
    assert run_grid(cells(timesteps=budget), OUT, local_engine(1)) is None
    assert finished.stat().st_mtime_ns == written
    assert (unfinished / "cell.json").is_file() and len(runs()) == 2
    steps = [row.split(",")[5] for row in (unfinished / "progress.csv").read_text().splitlines()]
    assert steps[0] == "time/total_timesteps"
    assert [int(step) for step in steps[1:]] == list(range(256, budget + 1, 256))  # nothing twice, nothing lost


def test_a_run_killed_before_its_first_checkpoint_is_restarted():
    (cell,) = cells("lstm")
    left = Run.create(cell.settings(OUT), cell.name)
    assert run_grid([cell], OUT, local_engine(1)) is None
    assert len(runs()) == 2 and not (left.path / "cell.json").exists()


def test_parallel_trainings_give_the_same_results_as_sequential_ones():
    one, several = Path("one"), Path("several")
    assert run_grid(cells(), one, local_engine(1)) is None
    assert run_grid(cells(), several, local_engine(2)) is None
    scores = [
        [(result.core, result.mmer, result.last) for result in read_results(SUITE, out)] for out in (one, several)
    ]
    assert sorted(scores[0]) == sorted(scores[1])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_training_that_fails_is_named_after_the_others_are_finished(jobs, capfd):
    good, bad = cells("ntm,lstm")
    broken = replace(bad, overrides=(*bad.overrides, "policy.init_from=nowhere"))
    with pytest.raises(InputError, match=r"^memory_len/length-2/lstm, seed 0: the training failed, see above"):
        run_grid([broken, good], OUT, local_engine(jobs))
    assert "run = 'nowhere': no such folder" in capfd.readouterr().err
    assert [result.core for result in read_results(SUITE, OUT)] == ["ntm"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cell_that_another_process_trains_comes_last(jobs):
    first, second = cells("ntm,lstm")
    lines, lock = [], ExitStack()
    lock.enter_context(locked(CellJob(first, OUT.resolve())))  # belongs to the open file, as if of another process
    assert run_job(CellJob(first, OUT.resolve()), show_progress=False) is Outcome.BUSY

    def finish(line):
        lines.append(line)
        lock.close()

    assert run_grid([first, second], OUT, local_engine(jobs), finish) is None
    assert [line.split(", ")[1] for line in lines] == ["lstm", "ntm"]


def test_two_processes_train_a_grid_together():
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ntm_rl.agents", *command("--seeds=2")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert len(runs()) == 4 and len(read_results(SUITE, OUT)) == 4  # no cell twice


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("ppo.learning_rate=0.5",), r"out = 'out': contains another grid: .*ppo.learning_rate = 0.001 instead of 0.5"),
        (("env.kwargs.length=3",), r"env.kwargs.length = 2 instead of 3; choose another folder"),
    ],
)
def test_a_folder_of_another_grid_is_rejected(overrides, message):
    (cell,) = cells("lstm")
    Run.create(cell.settings(OUT), cell.name)
    with pytest.raises(InputError, match=message):
        run_grid(cells("lstm", overrides=overrides), OUT, local_engine(1))
    with pytest.raises(InputError, match=r"total_timesteps = 512 instead of 1024"):
        run_grid(cells("lstm", timesteps=1024), OUT, local_engine(1))
    with pytest.raises(InputError, match=r"memory_len/length-2/lstm has total_timesteps = 512 instead of 1024"):
        run_grid(cells("ntm", timesteps=1024), OUT, local_engine(1))  # another core, but another budget too
    other = plan("tmaze", ["lstm"], 1, tasks=["length-20"], overrides=TINY)
    with pytest.raises(InputError, match=r"out = 'out': contains a grid of the suite 'memory_len'"):
        run_grid(other, OUT, local_engine(1))
    check_folder(cells("gru,lstm", 2, overrides=("checkpoint.every=999", "device=cpu")), OUT)  # the same grid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "memory"], "suite = 'memory': unknown suite; valid are popgym-small, popgym, "),
        (["--suite", "tmaze", "--tasks", "length-21"], "task = 'length-21': unknown task; the suite has length-20"),
        (["--suite", "tmaze", "--cores", "lstn"], "core = 'lstn': unknown core; valid are ntm, ntm_block, lstm, gru"),
        (
            ["--suite", "tmaze", "--timesteps", "4000"],
            "timesteps = 4000: must be at least one rollout of task length-20",
        ),
        (["--suite", "tmaze", "--tasks", ""], "tasks = '': must be at least one task of the suite; it has length-20"),
        (["--suite", "tmaze", "--cores", ","], "cores = '': must be at least one of ntm, ntm_block, lstm, gru"),
        (["--suite", "tmaze", "--seeds", "0"], "seeds = 0: must be at least 1"),
        (["--suite", "tmaze", "--timesteps", "0"], "timesteps = 0: must be at least 1"),
        (["--suite", "tmaze", "--jobs", "0", "--tasks", "length-20"], "jobs = 0: must be at least 1"),
        (["--suite", "tmaze", "--set", "ppo.gama=1"], "Did you mean ppo.gamma?"),
        (["--suite", "tmaze", "--report-only"], "contains no finished training of the suite 'tmaze'"),
    ],
)
def test_invalid_input_is_one_message_and_creates_nothing(arguments, message, capsys):
    assert main(["benchmark", "memory", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize("option", ["suites", "tasks"])
def test_random_play_of_nothing_is_refused(option, capsys):
    arguments = ["benchmark", "random", "--suites", "tmaze", f"--{option}", ""]
    assert main(arguments) == 2
    assert f"{option} = '': must be at least one" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_an_error_of_the_option():
    Path("file").touch()
    for out in ("file", "/proc/x"):
        with pytest.raises(InputError, match=f"out = '.*{out}': .*; choose a"):
            run_grid(cells("lstm"), Path(out), local_engine(1))


def test_a_damaged_result_is_named():
    (cell,) = cells("lstm")
    folder = Run.create(cell.settings(OUT), cell.name).path
    (folder / "cell.json").write_text('{"suite": ')
    with pytest.raises(InputError, match=r"cell.json: cannot be read: .*delete it and run the command again"):
        read_results(SUITE, OUT)
