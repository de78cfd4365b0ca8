"""The writer to W&B: its errors, its queue, excluded and invalid metrics."""

import threading
import time

import pytest
import torch

from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking import wandb_writer as tracking
from ntm_rl.agents.tracking.wandb_writer import WandbWriter
from tracking_logs import FakeRun


def test_an_error_of_wandb_is_one_warning_and_the_run_is_finished():
    run = FakeRun(ConnectionError("the server is away"))
    writer = WandbWriter(run)
    writer.write({"a": 1}, {"a": ()}, 1)
    writer._thread.join(10)
    with pytest.warns(UserWarning, match="disabled for the rest of the training: the server is away"):
        writer.write({"a": 1}, {"a": ()}, 2)
    writer.write({"a": 1}, {"a": ()}, 3)
    writer.close()
    assert len(run.rows) == 1 and run.finished == 1


def test_excluded_metrics_are_not_logged():
    run = FakeRun()
    writer = WandbWriter(run)
    writer.write({"a": 1, "b": 2}, {"a": ("wandb",), "b": ("csv",)}, 7)
    writer.close()
    assert run.rows == [{"b": 2, PPO.steps_metric: 7}]


def test_a_value_that_cannot_be_logged_is_skipped_with_one_warning():
    run = FakeRun()
    writer = WandbWriter(run)
    values = {"bad": torch.tensor([float("nan")] * 3), "good": 1.0}
    with pytest.warns(UserWarning, match="bad cannot be logged to Weights & Biases"):
        writer.write(values, dict.fromkeys(values, ()), 1)
    writer.write(values, dict.fromkeys(values, ()), 2)
    writer.close()
    assert run.rows == [{"good": 1.0, PPO.steps_metric: 1}, {"good": 1.0, PPO.steps_metric: 2}]


class SlowRun(FakeRun):
    """A W&B run whose `log` blocks until `may_log` is set."""

    def __init__(self):
        super().__init__()
        self.may_log = threading.Event()

    def log(self, row):
        self.may_log.wait(60)
        super().log(row)


def test_a_slow_wandb_does_not_delay_the_training_and_gets_every_row():
    run = SlowRun()
    writer = WandbWriter(run)
    began = time.monotonic()
    for step in range(1000):
        writer.write({"a": step}, {"a": ()}, step)
    assert time.monotonic() - began < 5 and not run.rows
    run.may_log.set()
    writer.close()
    assert [row[PPO.steps_metric] for row in run.rows] == list(range(1000)) and run.finished == 1


def test_wandb_is_disabled_when_its_queue_is_full(monkeypatch):
    monkeypatch.setattr(tracking, "MAX_QUEUED", 5)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.1)
    run = SlowRun()
    writer = WandbWriter(run)
    with pytest.warns(UserWarning, match="disabled for the rest of the training: 5 entries are queued"):
        for step in range(9):
            writer.write({"a": step}, {"a": ()}, step)
    writer.close()
    run.may_log.set()
