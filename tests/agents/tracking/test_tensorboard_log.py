"""TensorBoard's events of a resumed training, and damaged event files."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.tracking.logger import make_logger
from ntm_rl.agents.tracking.tensorboard_log import TensorBoardWriter, drop_events_after
from tracking_logs import log


def test_tensorboard_drops_the_steps_that_a_resume_repeats(run_dir):
    logger = make_logger(run_dir, None)
    for step in (100, 200, 300):
        log(logger, step, loss=1.0)
    logger.close()
    logger = make_logger(run_dir, None, steps=200)
    log(logger, 300, loss=2.0)
    logger.close()
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(100, 1.0), (200, 1.0), (300, 2.0)]


def test_events_after_the_checkpoint_and_half_written_ones_are_cut_off(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    for step in (10, 20, 30):
        writer.add_scalar("x", step / 10, step)
    writer.close()
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + b"\x18\0\0\0\0\0\0\0half")
    resumed = TensorBoardWriter(tmp_path, 20)
    resumed.write({"x": 9.0}, {"x": ()}, 30)
    resumed.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("x")
    assert sorted((event.step, event.value) for event in events) == [(10, 1.0), (20, 2.0), (30, 9.0)]


def test_a_file_that_holds_no_events_is_named(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"\x04\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0")
    with pytest.raises(StorageError, match=r"events\.out\.tfevents\.1: not a TensorBoard event file"):
        drop_events_after(path, 3)
