"""Schedules of the learning rate."""

from typing import Literal

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule

from ntm_rl.agents import defaults


def scheduled(learning_rate: float, kind: Literal["constant", "linear"]) -> float | Schedule:
    """Returns a constant learning rate, or its linear decay to 0 over the training."""
    return LinearSchedule(learning_rate, 0.0, 1.0) if kind == "linear" else learning_rate


DEFAULT_LEARNING_RATE = scheduled(defaults.LEARNING_RATE, defaults.LEARNING_RATE_SCHEDULE)
