"""Episodes of an algorithmic task being played: what its single and its vector environment share."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ntm_rl.envs.algorithmic.curriculum import Curriculum
from ntm_rl.envs.algorithmic.task import AlgorithmicTask, BoolArray, Difficulty, Episode, FloatArray
from ntm_rl.envs.state import State, array_of
from ntm_rl.errors import InputError

BLOCKS = ("inputs", "targets", "answers", "weights")


class Playback:
    """E copies of a task, each at its own step of its own sequence.

    Args:
        task: The task.
        copies: E.
        curriculum: Draws difficulties and hears how they went; shared by the copies.

    Attributes:
        observation_space: Of one copy.
        action_space: Of one copy.
        time: Step of each copy, `[E]`.
    """

    def __init__(self, task: AlgorithmicTask, copies: int, curriculum: Curriculum):
        self.task, self.copies, self.curriculum = task, copies, curriculum
        self.observation_space = spaces.Box(task.input_low, task.input_high, dtype=np.float32)
        self.action_space: spaces.Discrete | spaces.MultiBinary = (
            spaces.Discrete(2) if task.output_size == 1 else spaces.MultiBinary(task.output_size)
        )
        self.time = np.zeros(copies, dtype=np.int64)
        self._all = np.arange(copies)
        self._lengths = np.zeros(copies, dtype=np.int64)
        self._wrong = np.zeros(copies)  # share of wrong bits so far
        self._difficulties: list[Difficulty] = [{} for _ in range(copies)]
        self._room = 0  # steps for which there is room in the blocks below
        self._make_room(1)

    @cached_property
    def longest(self) -> int:
        """Steps of the longest episode that the curriculum may draw."""
        hardest = {name: high for name, (_, high) in self.task.ranges.items()}
        return len(self.task.write(np.random.default_rng(0), hardest).mask)

    def begin(self, copies: NDArray[np.int64], generators: list[np.random.Generator]) -> None:
        """Writes new episodes for some copies, each with the generator of that copy."""
        for copy in copies.tolist():
            difficulty = self.curriculum.draw(generators[copy])
            inputs, targets, mask = self.task.write(generators[copy], difficulty)
            steps = len(mask)
            if steps >= self._room:
                self._make_room(steps + 1)
            self._inputs[copy, :steps], self._targets[copy, :steps] = inputs, targets
            self._weights[copy, :steps] = mask / np.count_nonzero(mask)
            # The step after the last, in which an earlier, longer episode may have left something.
            self._inputs[copy, steps], self._targets[copy, steps], self._weights[copy, steps] = 0, 0, 0
            self._difficulties[copy], self._lengths[copy] = difficulty, steps
        self.time[copies] = 0
        self._wrong[copies] = 0

    def observations(self) -> FloatArray:
        """Returns what the copies see now, `[E, I]`."""
        seen: FloatArray = self._inputs[self._all, self.time]
        return seen

    def info(self) -> dict[str, Any]:
        """Returns the right answers to what is seen now, `[E, O]`, and where an answer is asked for, `[E]`."""
        return {"target": self._targets[self._all, self.time], "mask": self._weights[self._all, self.time] > 0}

    def answer(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], BoolArray]:
        """Takes an answer of every copy, `[E, O]` or `[E]`, and moves on; returns rewards and which copies ended."""
        bits = actions.reshape(self.copies, -1)
        self._answers[self._all, self.time] = bits
        wrong = (bits != self._targets[self._all, self.time]).sum(axis=1) / self.task.output_size
        weights = self._weights[self._all, self.time]
        self._wrong += wrong * weights
        self.time += 1
        ended = self.time == self._lengths
        if ended.any():
            for copy in np.flatnonzero(ended).tolist():
                self.curriculum.report(self._difficulties[copy], float(self._wrong[copy]))
        return (1 - 2 * wrong) * weights, ended

    def episode(self, copy: int) -> tuple[Episode, FloatArray]:
        """Returns the episode that a copy plays, and the answers `[T, O]` it has given, zeros where not yet."""
        steps = int(self._lengths[copy])
        is_past = np.arange(steps) < self.time[copy]
        answers = np.where(is_past[:, None], self._answers[copy, :steps], 0).astype(np.float32)
        targets = self._targets[copy, :steps].astype(np.float32)
        return Episode(self._inputs[copy, :steps], targets, self._weights[copy, :steps] > 0), answers

    def get_state(self) -> State:
        """See `ntm_rl.envs.state`; the curriculum and the generators are not part of it."""
        blocks = {name: getattr(self, f"_{name}").copy() for name in BLOCKS}
        counts = {"time": self.time.copy(), "lengths": self._lengths.copy(), "wrong": self._wrong.copy()}
        return {**blocks, **counts, "difficulties": [dict(each) for each in self._difficulties]}

    def set_state(self, state: Mapping[str, Any]) -> FloatArray:
        """See `ntm_rl.envs.state`."""
        inputs, difficulties = state.get("inputs"), state.get("difficulties")
        room = inputs.shape[1] if isinstance(inputs, np.ndarray) and inputs.ndim > 1 else 0
        blocks = {}
        for name in BLOCKS:
            old = getattr(self, f"_{name}")
            like = np.broadcast_to(old[:1, :1], (self.copies, room, *old.shape[2:]))  # takes no memory
            blocks[name] = array_of(state, name, like, *((-np.inf, np.inf) if name == "inputs" else (0, 1)))
        lengths = array_of(state, "lengths", self._lengths, 1, room - 1)
        time, wrong = array_of(state, "time", self.time, 0), array_of(state, "wrong", self._wrong, 0)
        if (time >= lengths).any():
            raise InputError("state 'time': a copy is behind the end of its episode")
        if not isinstance(difficulties, list) or len(difficulties) != self.copies:
            raise InputError(f"state 'difficulties': must be a list of {self.copies}")
        for difficulty in difficulties:
            self.task.check(difficulty)
        for name, block in blocks.items():
            setattr(self, f"_{name}", block)
        self._room, self.time, self._lengths, self._wrong = room, time, lengths, wrong
        self._difficulties = [dict(each) for each in difficulties]
        return self.observations()

    def _make_room(self, steps: int) -> None:
        """Makes room for so many steps, and keeps the episodes under way."""
        grown = steps - self._room

        def larger(name: str, channels: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
            more = np.zeros((self.copies, grown, *channels), dtype=dtype)
            return np.concatenate([getattr(self, name), more], axis=1) if self._room else more

        # Of each episode, and blank after its last step: what is seen, right and said, and an answer's share of the
        # return, 1 / (steps that ask for one).
        self._inputs = larger("_inputs", (self.task.input_size,), np.float32)
        self._targets = larger("_targets", (self.task.output_size,), np.int8)
        self._answers = larger("_answers", (self.task.output_size,), np.int8)
        self._weights = larger("_weights", (), np.float64)
        self._room = steps
