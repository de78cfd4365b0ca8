"""The kinds of training, PPO and supervised, with the names of their steps and scores."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingKind:
    """Names that a kind of training has in configs, logs, agent cards and reports.

    Attributes:
        counter: Name of the step count: `total_<counter>` in a config, `time/total_<counter>` in the logs.
        unit: One step.
        units: Steps, in the plural.
        score: Name of the score in results.
        score_metric: Name of the score in the logs.
        score_description: Description of the score.
        lower_is_better: Whether lower scores are better.
    """

    counter: Literal["timesteps", "sequences"]
    unit: Literal["step", "sequence"]
    units: str
    score: str
    score_metric: str
    score_description: str
    lower_is_better: bool

    @property
    def length_key(self) -> str:
        """The config key of the training's length."""
        return f"total_{self.counter}"

    @property
    def steps_metric(self) -> str:
        """Name of the metric that counts the steps."""
        return f"time/total_{self.counter}"


PPO = TrainingKind(
    counter="timesteps",
    unit="step",
    units="environment steps",
    score="mean_return",
    score_metric="rollout/ep_rew_mean",
    score_description="Mean return of the last episodes",
    lower_is_better=False,
)
SUPERVISED = TrainingKind(
    counter="sequences",
    unit="sequence",
    units="sequences",
    score="bits_per_sequence",
    score_metric="validation/bits_per_sequence",
    score_description="Bits per sequence of the last validation",
    lower_is_better=True,
)
