"""Resumed supervised trainings, and checkpoints that do not fit."""

import pytest
import torch

from ntm_rl.agents.policy.network_files import load_network
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.agents.training import resume
from ntm_rl.errors import InputError
from small_trainings import train_copy


def test_two_halves_with_a_resume_between_are_one_training(tmp_path):
    same = ("seed=3", "optimizer.learning_rate_schedule=constant")
    through = train_copy(tmp_path / "a", *same, "total_sequences=80")
    run = train_copy(tmp_path / "b", *same, "total_sequences=40")
    resume(run, load_settings(str(run.config_file), ["total_sequences=80"]), show_progress=False)
    ours, theirs = (load_network(each.agent)[0].state_dict() for each in (run, through))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [read_table(each.path / "progress.csv")[1] for each in (run, through)]
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in each] for each in rows]
    assert timeless[0] == timeless[1]


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    run = train_copy(tmp_path)
    settings = load_settings(
        str(run.config_file), ["task.name=reverse", "task.reverse.max_length=3", "task.reverse.bits=2"]
    )
    with pytest.raises(StorageError, match="a checkpoint of task 'copy'; the config's is 'reverse'"):
        SupervisedTrainer(settings).load(latest_checkpoint(run.checkpoints))
    with pytest.raises(InputError, match=r"task.name = 'reverse': the run's weights were made with the old value"):
        resume(run, settings, show_progress=False)
    with pytest.raises(InputError, match=r"task.copy.bits = 3: .*tensor 'core.weight_input' has shape"):
        resume(run, load_settings(str(run.config_file), ["task.copy.bits=3"]), show_progress=False)
