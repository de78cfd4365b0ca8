"""The values that a supervised checkpoint has besides weights, optimizer and random states."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ntm_rl.agents.storage.checkpoints import SUPERVISED_CHECKPOINT, as_count
from ntm_rl.agents.tracking.logger import PendingMetrics, parse_pending
from ntm_rl.envs.state import generator_of, generator_state


@dataclass(frozen=True)
class SavedState:
    """The state of a `SupervisedTrainer`; see its attributes."""

    sequences: int
    best: float
    last: float | None
    level: int
    errors: list[float]
    rng: np.random.Generator
    overflows: int
    rollbacks: int
    sums: list[float]
    updates: int
    pending: PendingMetrics

    def document(self, task: str) -> dict[str, Any]:
        """Returns the state as JSON values."""
        return {
            "kind": SUPERVISED_CHECKPOINT,
            "task": task,
            "sequences": self.sequences,
            "best": self.best if math.isfinite(self.best) else None,
            "last": self.last,
            "level": self.level,
            "errors": self.errors,
            "generator": generator_state(self.rng),
            "overflows": self.overflows,
            "rollbacks": self.rollbacks,
            "sums": self.sums,
            "updates": self.updates,
            "pending": dict(self.pending),
        }

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Checks JSON values that `document` returned.

        Raises:
            Exception: of any kind, for values that are damaged.
        """
        best, last = document["best"], document["last"]
        bits, wrong, norm = document["sums"]
        return cls(
            sequences=as_count(document["sequences"]),
            best=math.inf if best is None else float(best),
            last=None if last is None else float(last),
            level=as_count(document["level"]),
            errors=[float(error) for error in document["errors"]],
            rng=generator_of(document["generator"]),
            overflows=as_count(document["overflows"]),
            rollbacks=as_count(document["rollbacks"]),
            sums=[float(bits), float(wrong), float(norm)],
            updates=as_count(document["updates"]),
            pending=parse_pending(document["pending"]),
        )
