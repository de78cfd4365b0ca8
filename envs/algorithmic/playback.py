"""Episodes of an algorithmic task, as the single and the vector environment play them."""

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
    """The sequences that E sub-environments play, each at its own step.

    Args:
        task: The task.
        num_envs: E, the number of sub-environments.
        curriculum: Draws the difficulties and receives the errors; shared by the sub-environments.

    Attributes:
        observation_space: Observation space of a sub-environment.
        action_space: Action space of a sub-environment.
        time: Step of each sub-environment, `[E]`.
    """

    def __init__(self, task: AlgorithmicTask, num_envs: int, curriculum: Curriculum):
        self.task, self.num_envs, self.curriculum = task, num_envs, curriculum
        self.observation_space = spaces.Box(task.input_low, task.input_high, dtype=np.float32)
        self.action_space: spaces.Discrete | spaces.MultiBinary = (
            spaces.Discrete(2) if task.output_size == 1 else spaces.MultiBinary(task.output_size)
        )
        self.time = np.zeros(num_envs, dtype=np.int64)
        self._indices = np.arange(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._wrong = np.zeros(num_envs)  # fraction of wrong bits so far
        self._difficulties: list[Difficulty] = [{} for _ in range(num_envs)]
        self._room = 0  # steps for which the arrays have room
        self._make_room(1)

    @cached_property
    def longest(self) -> int:
        """Steps of the longest episode that the curriculum may draw."""
        hardest = {name: high for name, (_, high) in self.task.ranges.items()}
        return len(self.task.generate(np.random.default_rng(0), hardest).mask)

    def begin(self, indices: NDArray[np.int64], generators: list[np.random.Generator]) -> None:
        """Generates new episodes for the sub-environments `indices`, each with its own generator."""
        for index in indices.tolist():
            difficulty = self.curriculum.draw(generators[index])
            inputs, targets, mask = self.task.generate(generators[index], difficulty)
            steps = len(mask)
            if steps >= self._room:
                self._make_room(steps + 1)
            self._inputs[index, :steps], self._targets[index, :steps] = inputs, targets
            self._weights[index, :steps] = mask / np.count_nonzero(mask)
            # Clears the step after the last, which an earlier, longer episode may have used.
            self._inputs[index, steps], self._targets[index, steps], self._weights[index, steps] = 0, 0, 0
            self._difficulties[index], self._lengths[index] = difficulty, steps
        self.time[indices] = 0
        self._wrong[indices] = 0

    def observations(self) -> FloatArray:
        """Returns the current observations, `[E, I]`."""
        observations: FloatArray = self._inputs[self._indices, self.time]
        return observations

    def info(self) -> dict[str, Any]:
        """Returns the targets of the current step, `[E, O]`, and its mask, `[E]`."""
        return {"target": self._targets[self._indices, self.time], "mask": self._weights[self._indices, self.time] > 0}

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[np.float64], BoolArray]:
        """Plays a step with the answers `[E, O]` or `[E]`; returns the rewards and the ended episodes, `[E]` each."""
        bits = actions.reshape(self.num_envs, -1)
        self._answers[self._indices, self.time] = bits
        wrong = (bits != self._targets[self._indices, self.time]).sum(axis=1) / self.task.output_size
        weights = self._weights[self._indices, self.time]
        self._wrong += wrong * weights
        self.time += 1
        ended = self.time == self._lengths
        self.curriculum.report_ended(self._difficulties, self._wrong, ended)
        return (1 - 2 * wrong) * weights, ended

    def episode(self, index: int) -> tuple[Episode, FloatArray]:
        """Returns the episode of a sub-environment and its answers so far, `[T, O]`, 0 from the current step on."""
        steps = int(self._lengths[index])
        is_past = np.arange(steps) < self.time[index]
        answers = np.where(is_past[:, None], self._answers[index, :steps], 0).astype(np.float32)
        targets = self._targets[index, :steps].astype(np.float32)
        return Episode(self._inputs[index, :steps], targets, self._weights[index, :steps] > 0), answers

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
            like = np.broadcast_to(old[:1, :1], (self.num_envs, room, *old.shape[2:]))  # takes no memory
            blocks[name] = array_of(state, name, like, *((-np.inf, np.inf) if name == "inputs" else (0, 1)))
        lengths = array_of(state, "lengths", self._lengths, 1, room - 1)
        time, wrong = array_of(state, "time", self.time, 0), array_of(state, "wrong", self._wrong, 0)
        if (time >= lengths).any():
            raise InputError("state 'time': must be less than the lengths of the episodes")
        if not isinstance(difficulties, list) or len(difficulties) != self.num_envs:
            raise InputError(f"state 'difficulties': must be a list of {self.num_envs}")
        for difficulty in difficulties:
            self.task.check(difficulty)
        for name, block in blocks.items():
            setattr(self, f"_{name}", block)
        self._room, self.time, self._lengths, self._wrong = room, time, lengths, wrong
        self._difficulties = [dict(each) for each in difficulties]
        return self.observations()

    def _make_room(self, steps: int) -> None:
        """Extends the arrays to `steps` steps and keeps their contents."""
        grown = steps - self._room

        def larger(name: str, channels: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
            more = np.zeros((self.num_envs, grown, *channels), dtype=dtype)
            return np.concatenate([getattr(self, name), more], axis=1) if self._room else more

        # All are 0 after an episode's last step. A weight is an answer's share of the return: 1 / (masked steps).
        self._inputs = larger("_inputs", (self.task.input_size,), np.float32)
        self._targets = larger("_targets", (self.task.output_size,), np.int8)
        self._answers = larger("_answers", (self.task.output_size,), np.int8)
        self._weights = larger("_weights", (), np.float64)
        self._room = steps
