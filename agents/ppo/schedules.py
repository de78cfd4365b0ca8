"""Schedules of the learning rate and of the clipping range."""

from typing import Literal

from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule

from ntm_rl.agents import defaults


def scheduled(value: float, kind: Literal["constant", "linear"]) -> float | Schedule:
    """Returns a constant, or its linear decay to 0 over the training."""
    return LinearSchedule(value, 0.0, 1.0) if kind == "linear" else value


DEFAULT_LEARNING_RATE = scheduled(defaults.LEARNING_RATE, defaults.LEARNING_RATE_SCHEDULE)
