"""The checks before a data-parallel training."""

import os

import pytest
import torch.distributed as dist

from ntm_rl.agents.launching import launch
from ntm_rl.agents.training import train
from ntm_rl.errors import InputError
from process_groups import run_ranks
from small_trainings import copy_settings


def refused_on_rank(folder, overrides):
    settings = copy_settings(folder, *overrides[dist.get_rank()])
    with pytest.raises(InputError) as raised:
        train(settings, "copy", show_progress=False)
    return str(raised.value), raised.value.is_reported


def test_ranks_need_the_same_config(tmp_path):
    (line, first), (other, second) = run_ranks(refused_on_rank, 2, tmp_path, [["seed=1"], ["seed=2"]])
    assert line == other and (first, second) == (False, True)
    assert line.startswith("seed = 2 of rank 1 on host ") and "of rank 0 on " in line
    assert not list(tmp_path.iterdir())


def test_an_error_on_all_ranks_is_reported_by_the_first(tmp_path):
    errors = run_ranks(refused_on_rank, 2, tmp_path, [["batch_size=1"]] * 2)
    assert errors == [("batch_size = 1: must be at least the number of processes, 2", each) for each in (False, True)]


def test_python_does_not_start_processes(tmp_path):
    with pytest.raises(InputError, match=r"processes = 2: `ntm-rl train` .* from Python, run the script with torchrun"):
        train(copy_settings(tmp_path, "processes=2"), "copy", show_progress=False)


def test_more_processes_than_cores_or_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    with pytest.raises(InputError, match="processes = 4: must be at most 3, the cores of this machine"):
        launch(copy_settings(tmp_path, "processes=4"), len, [])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match="processes = 2: must be at most 1, the GPUs of this machine; device=cpu"):
        launch(copy_settings(tmp_path, "processes=2"), len, [])
    with pytest.raises(InputError, match="device = 'cuda:0': with processes = 2 use cuda"):
        launch(copy_settings(tmp_path, "processes=2", "device=cuda:0"), len, [])
