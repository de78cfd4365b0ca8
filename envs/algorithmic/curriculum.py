"""Curricula, which draw the difficulty of the next sequence."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ntm_rl.envs.algorithmic.task import AlgorithmicTask, Difficulty
from ntm_rl.errors import InputError, did_you_mean

CurriculumKind = Literal["uniform", "lookahead"]
ANY_SHARE, UP_TO_SHARE = 0.10, 0.25  # fractions of sequences at any level, and at any up to the current one
EPISODES = 50  # number of episodes at the current level over which errors are averaged
ADVANCE_BELOW = 0.02  # fraction of wrong bits


class Curriculum:
    """Draws difficulties and adapts to the reported errors.

    "lookahead" is the curriculum of Zaremba and Sutskever (2014, section 3.3; 2015, section 6): most sequences are at
    the current level or a geometrically distributed step above it, some at any level up to that, and some at any level.
    The level increases by one when 98% of the bits at it are right.

    Attributes:
        level: The current level, from 1; `levels` with "uniform".
        levels: The highest level: the size of the task's largest range.
        gather: Returns the rows of all processes that share the curriculum; None without others.

    Raises:
        InputError: unknown `kind`.
    """

    def __init__(self, task: AlgorithmicTask, kind: str = "uniform"):
        kinds = get_args(CurriculumKind)
        if kind not in kinds:
            raise InputError(
                f"curriculum = {kind!r}: must be one of {', '.join(kinds)}.{did_you_mean(str(kind), kinds)}"
            )
        self.task, self.kind = task, kind
        self.levels = max(high - low for low, high in task.ranges.values()) + 1
        self.level = self.levels if kind == "uniform" else 1
        self.gather: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
        self._errors: deque[float] = deque(maxlen=EPISODES)
        self._is_fixed = False

    def draw(self, rng: np.random.Generator) -> Difficulty:
        """Draws the difficulty of the next sequence."""
        if self.level == self.levels:
            return self.task.draw(rng)
        uniform = rng.random()
        if uniform < ANY_SHARE:
            return self.task.draw(rng)
        difficulty = {}
        for name, (low, high) in self.task.ranges.items():
            level = self.level + int(rng.geometric(0.5)) - 1
            if uniform < ANY_SHARE + UP_TO_SHARE:
                level = int(rng.integers(1, level + 1))
            difficulty[name] = min(low + level - 1, high)
        return difficulty

    def report_ended(
        self, difficulties: Sequence[Difficulty], errors: NDArray[np.float64], ended: NDArray[np.bool_]
    ) -> None:
        """Reports the sequences that ended in a step; every process that shares the curriculum calls it in every step.

        Args:
            difficulties: Difficulties of the sequences of E sub-environments.
            errors: Their fractions of wrong bits, `[E]`.
            ended: Whether they ended, `[E]`.
        """
        if self.gather is None:
            for index in np.flatnonzero(ended).tolist():
                self.report(difficulties[index], float(errors[index]))
        elif self._is_adapting:
            names = list(self.task.ranges)
            rows = np.array([[each[name] for name in names] for each in difficulties], dtype=np.float64)
            rows = self.gather(np.column_stack([rows, errors, ended]))
            for *difficulty, error, _ in rows[rows[:, -1] == 1].tolist():
                self.report(dict(zip(names, map(int, difficulty), strict=True)), error)

    @property
    def _is_adapting(self) -> bool:
        return not self._is_fixed and self.level < self.levels

    def report(self, difficulty: Difficulty, error: float) -> None:
        """Records the fraction of wrong bits in a finished sequence."""
        if not self._is_adapting or self._level_of(difficulty) != self.level:
            return
        self._errors.append(error)
        if len(self._errors) == EPISODES and np.mean(self._errors) < ADVANCE_BELOW:
            self.level += 1
            self._errors.clear()

    @property
    def errors(self) -> list[float]:
        """Fractions of wrong bits of the latest sequences at the current level, for a checkpoint."""
        return list(self._errors)

    def restore(self, level: int, errors: list[float]) -> None:
        """Restores the state of another curriculum."""
        self.level = min(max(level, 1), self.levels)
        self._errors = deque(errors, maxlen=EPISODES)

    def fix(self, level: int) -> None:
        """Fixes the level, as in an evaluation; "uniform" only has its highest level."""
        if self.kind != "uniform":
            self.restore(level, [])
        self._is_fixed = True

    def _level_of(self, difficulty: Difficulty) -> int:
        return max(difficulty[name] - low for name, (low, _) in self.task.ranges.items()) + 1
