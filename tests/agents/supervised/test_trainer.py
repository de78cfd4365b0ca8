"""The supervised trainer: what it learns from, penalties, and numbers that are not finite."""

import math

import numpy as np
import pytest
import torch

from ntm_rl.agents import training
from ntm_rl.agents.policy.network_files import load_network
from ntm_rl.agents.supervised.trainer import SupervisedTrainer
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.agents.training import train
from ntm_rl.errors import InputError
from small_trainings import copy_settings


def test_a_training_learns_and_leaves_a_whole_run(tmp_path):
    learning = ("optimizer.name=adam", "optimizer.learning_rate=0.01", "optimizer.averaging=0.9", "batch_size=5")
    often = ("validation.every=100", "validation.sequences=300", "log_every=100", "total_sequences=1500")
    # Without biased sequences, so few are enough for what is validated.
    settings = copy_settings(tmp_path, *learning, *often, "biased_fraction=0")
    result = train(settings, "algorithmic/copy", show_progress=False)
    columns, rows = read_table(result.run / "progress.csv")
    costs = [float(row["validation/bits_per_sequence"]) for row in rows]
    assert len(rows) == 15
    assert costs[-1] < 0.6 * costs[0]
    assert result.score == costs[-1]
    assert "validation/length=5/bits_per_sequence" in columns
    assert {path.name for path in result.run.iterdir()} >= {
        "agent",
        "best",
        "checkpoints",
        "config.yaml",
        "tensorboard",
    }
    network, card = load_network(result.run / "best")
    assert card["extra"]["bits"] == min(costs)
    assert network.core.slots == 8


def test_biased_bits_are_for_training_alone(tmp_path, monkeypatch):
    trainer = SupervisedTrainer(copy_settings(tmp_path, "task.copy.bits=8", "batch_size=200", "biased_fraction=0.5"))
    seen = {}

    def note(name, task):
        sample = task.sample

        def noting(batch, *rest):
            seen[name] = sample(batch, *rest)
            return seen[name]

        monkeypatch.setattr(task, "sample", noting)

    note("training", trainer._training_task)
    note("validation", trainer.task)
    trainer.update()
    trainer.validate({"length": 20})
    trainer._training_task.sample(200, np.random.default_rng(0), {"length": 20})

    def extreme(batch):
        """Share of sequences with hardly any bits, or nearly all."""
        share = batch.targets[batch.mask.any(axis=1)].mean(axis=(0, 2))
        return ((share < 0.25) | (share > 0.75)).mean()

    assert 0.15 < extreme(seen["training"]) < 0.35  # half of half of them
    assert extreme(seen["validation"]) == 0


@pytest.mark.parametrize("core", ["ntm", "dnc"])
def test_the_entropy_penalty_makes_weightings_sharper(core, tmp_path):
    inputs = torch.randn(9, 50, 3)
    plain, sharp = (trained(tmp_path, core, weight).with_entropy(inputs, [3, 6])[1].item() for weight in (0, 10))
    assert sharp < plain / 2


def test_the_entropy_penalty_does_nothing_to_a_core_without_weightings(tmp_path):
    plain, penalised = (trained(tmp_path, "lstm", weight).parameters() for weight in (0, 10))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plain, penalised, strict=True))


def trained(tmp_path, core, weight):
    more = (f"core={core}", f"optimizer.weighting_entropy={weight}", "optimizer.learning_rate=1e-3")
    trainer = SupervisedTrainer(copy_settings(tmp_path, *more))
    for _ in range(60):
        trainer.update()
    return trainer.network


def test_a_cost_that_is_not_finite_ends_the_training_in_one_line(tmp_path, monkeypatch):
    settings = copy_settings(tmp_path)
    trainer = SupervisedTrainer(settings)
    with torch.no_grad():
        trainer.network.output.weight.fill_(math.nan)
    monkeypatch.setattr(training, "SupervisedTrainer", lambda *_, **__: trainer)
    with pytest.raises(InputError, match=r"after 0 sequences: the cost is not finite; lower optimizer.learning_rate"):
        train(settings, "algorithmic/copy", show_progress=False)


def test_a_gradient_that_overflows_is_left_out_and_twenty_in_a_row_end_the_training(tmp_path):
    trainer = SupervisedTrainer(copy_settings(tmp_path))
    trainer.update()
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    hook = trainer.network.output.weight.register_hook(lambda gradient: gradient * math.inf)
    trainer.update()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))
    hook.remove()
    trainer.update()
    assert not torch.equal(before[0], next(trainer.network.parameters()))
    trainer.network.output.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(InputError, match="the gradients of 20 batches in a row are not finite"):
        for _ in range(20):
            trainer.update()
