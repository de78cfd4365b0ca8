"""The supervised trainer on several ranks against one process."""

import numpy as np
import pytest
import torch

from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.errors import InputError
from process_groups import run_ranks
from small_trainings import copy_settings


def doubles(network, array):
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.double() if tensor.is_floating_point() else tensor


def trained(folder, *overrides):
    trainer = SupervisedTrainer(copy_settings(folder, "optimizer.weighting_entropy=0.1", *overrides))
    trainer.network.double()
    trainer.average.module.double()
    figures = [[float(each) for each in trainer.update()] for _ in range(5)]
    weights = torch.cat([each.detach().flatten() for each in trainer.network.parameters()])
    return weights.numpy(), np.array(figures)


def test_two_ranks_learn_the_weights_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("ntm_rl.agents.supervised.trainer.tensor_on", doubles)
    options = "batch_size=5", "optimizer.name=adam", "optimizer.learning_rate=0.01", "task.copy.max_length=6"
    weights, figures = trained(tmp_path, *options)
    first, second = run_ranks(trained, 2, tmp_path, *options)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[0], weights, rtol=0, atol=1e-10)
    np.testing.assert_allclose(first[1], figures, rtol=1e-6)


def refused(folder):
    with pytest.raises(InputError, match="batch_size = 1: must be at least the number of processes, 2"):
        SupervisedTrainer(copy_settings(folder, "batch_size=1"))


def test_every_rank_needs_a_sequence(tmp_path):
    run_ranks(refused, 2, tmp_path)
