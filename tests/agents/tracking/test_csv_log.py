"""`progress.csv`: resumes, values, damaged files and full disks."""

import csv
import resource

import numpy as np
import pytest
import torch

from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.tracking.logger import make_logger
from tracking_logs import log


def test_the_csv_continues_after_a_resume_without_gap_or_repetition_and_adds_columns(run_dir):
    logger = make_logger(run_dir, None)
    log(logger, 100, loss=1.0)
    log(logger, 200, loss=2.0, extra=5)
    log(logger, 300, loss=3.0)
    logger.close()
    with (run_dir / "progress.csv").open("a") as file:
        file.write("4.0,tor")  # a row that a killed process did not finish
    logger = make_logger(run_dir, None, steps=200)
    log(logger, 300, loss=3.5)
    logger.close()
    with (run_dir / "progress.csv").open() as file:
        rows = [(row[PPO.steps_metric], row["train/loss"], row["train/extra"]) for row in csv.DictReader(file)]
    assert rows == [("100", "1.0", ""), ("200", "2.0", "5"), ("300", "3.5", "")]


def test_a_process_killed_before_its_first_row_ended_leaves_a_usable_file(run_dir):
    (run_dir / "progress.csv").write_text("train/lo")
    logger = make_logger(run_dir, None, steps=100)
    log(logger, 200, loss=1.0)
    logger.close()
    assert (run_dir / "progress.csv").read_text() == f"{PPO.steps_metric},train/loss\n200,1.0\n"


def test_the_csv_has_only_numbers(run_dir):
    logger = make_logger(run_dir, None)
    values = {
        "a": np.float32(0.5),
        "b": torch.tensor(2.5),
        "c": True,
        "d": "text",
        "e": torch.zeros(3),
        "f": float("nan"),
    }
    for key, value in values.items():
        logger.record(key, value, exclude="tensorboard")
    logger.dump(1)
    logger.close()
    with (run_dir / "progress.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"a": "0.5", "b": "2.5", "c": "True", "f": "nan"}]


@pytest.mark.parametrize("content", ["a,b\n1,2,3\n", f"{PPO.steps_metric}\nmany\n", b"\xff\xfe\n", 'a\n"1\n'])
def test_a_file_that_is_not_a_table_is_one_error_and_stays_unchanged(run_dir, content):
    data = content if isinstance(content, bytes) else content.encode()
    (run_dir / "progress.csv").write_bytes(data)
    try:
        make_logger(run_dir, None, steps=100).close()
    except StorageError as error:
        assert "progress.csv: not a table that ntm-rl wrote" in str(error)
        assert (run_dir / "progress.csv").read_bytes() == data
    else:
        assert content == 'a\n"1\n'  # an open quote is a value like any other


def test_a_full_disk_is_one_error_and_closing_adds_none(run_dir):
    logger = make_logger(run_dir, None)
    log(logger, 100, loss=1.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((run_dir / "progress.csv").stat().st_size + 3, before[1]))
    try:
        with pytest.raises(StorageError, match=r"progress\.csv: cannot be written: File too large"):
            log(logger, 200, loss=2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.close()
    logger = make_logger(run_dir, None, steps=100)
    log(logger, 200, loss=2.5)
    logger.close()
    assert (run_dir / "progress.csv").read_text().splitlines()[1:] == ["100,1.0", "200,2.5"]
