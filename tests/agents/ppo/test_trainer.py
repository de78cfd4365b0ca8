"""The values that a PPO checkpoint has besides the model."""

import json

import numpy as np
import pytest
from stable_baselines3.common.logger import Logger

from ntm_rl.agents.ppo.trainer import SavedProgress
from ntm_rl.agents.tracking.logger import parse_pending, pending_metrics, record_pending


def test_missing_values_are_those_of_a_new_training():
    assert SavedProgress.parse({}) == SavedProgress() == SavedProgress(0, -np.inf, 0, 0, {})


@pytest.mark.parametrize(
    "extra",
    [
        {"rollbacks": -1},
        {"best": "high"},
        {"best": None},
        {"best_level": 1.5},
        {"easier": None},
        {"pending": []},
        {"pending": {"a": 1}},
        {"pending": {"a": [1]}},
        {"pending": {"a": ["x", []]}},
        {"pending": {"a": [1, "csv"]}},
        {"pending": {"a": [1, [2]]}},
    ],
)
def test_a_damaged_value_is_refused(extra):
    with pytest.raises(ValueError):
        SavedProgress.parse(extra)


def test_pending_metrics_survive_json():
    logger, restored = Logger(None, []), Logger(None, [])
    logger.record("a", 1)
    logger.record("b", 0.5, ("csv", "tensorboard"))
    record_pending(restored, parse_pending(json.loads(json.dumps(pending_metrics(logger)))))
    assert restored.name_to_value == logger.name_to_value
    assert restored.name_to_excluded == {"a": (), "b": ("csv", "tensorboard")}
