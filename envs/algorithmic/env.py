"""The algorithmic tasks as a Gymnasium environment and a vector environment."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ntm_rl.envs.algorithmic.curriculum import Curriculum
from ntm_rl.envs.algorithmic.playback import Playback
from ntm_rl.envs.algorithmic.registry import make_task
from ntm_rl.envs.algorithmic.render import render_image, render_text
from ntm_rl.envs.algorithmic.task import FloatArray
from ntm_rl.envs.batched.base import RENDER_FPS, RENDER_MODES, check_render_mode, reseed
from ntm_rl.envs.state import State, generator_state, generators_of, part_of
from ntm_rl.errors import InputError


class HasCurriculum:
    """Exposes the curriculum as an attribute, so that `VecEnv.set_attr` can replace it in another process."""

    _playback: Playback

    @property
    def max_episode_steps(self) -> int:
        """Steps of the longest episode that the curriculum may draw."""
        return self._playback.longest

    @property
    def curriculum(self) -> Curriculum:
        """The curriculum that draws the difficulties."""
        return self._playback.curriculum

    @curriculum.setter
    def curriculum(self, curriculum: Curriculum) -> None:
        self._playback.curriculum = curriculum


class AlgorithmicEnv(HasCurriculum, gym.Env[FloatArray, Any]):
    """Plays an algorithmic task; the class of the task describes its spaces and rewards.

    `info["target"]` is the right answer to the current observation, `info["mask"]` whether an answer is rewarded.

    Args:
        task: Name of the task.
        curriculum: "uniform" (uniform over the task's ranges) or "lookahead" (from easy to hard).
        render_mode: "rgb_array" or "ansi"; shows inputs, answers and targets.
        **options: Options of the task.

    Raises:
        InputError: the task or an option is unknown, or an option is out of range.
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": RENDER_FPS}  # noqa: RUF012  (Gymnasium's own convention)

    def __init__(self, task: str, *, curriculum: str = "uniform", render_mode: str | None = None, **options: Any):
        check_render_mode(render_mode)
        self.render_mode = render_mode
        made = make_task(task, **options)
        self._playback = Playback(made, 1, Curriculum(made, curriculum))
        self.observation_space, self.action_space = self._playback.observation_space, self._playback.action_space
        self._first = np.zeros(1, dtype=np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins a new sequence; see `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._playback.begin(self._first, [self.np_random])
        return self._playback.observations()[0], self._info()

    def step(self, action: Any) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """Plays one step.

        Raises:
            InputError: the action is not in the action space.
        """
        if not self.action_space.contains(action):
            raise InputError(f"action = {action!r}: must be in {self.action_space}")
        rewards, ended = self._playback.step(np.asarray(action))
        return self._playback.observations()[0], float(rewards[0]), bool(ended[0]), False, self._info()

    def fix_level(self, level: int) -> None:
        """Fixes the curriculum at a level; see `Curriculum.fix`."""
        self.curriculum.fix(level)

    def render(self) -> Any:
        """Returns the episode so far as an image `[height, width, 3]` or as text."""
        return None if self.render_mode is None else render(self._playback, 0, self.render_mode)

    def _info(self) -> dict[str, Any]:
        info = self._playback.info()
        return {"target": info["target"][0], "mask": bool(info["mask"][0])}


class AlgorithmicVectorEnv(HasCurriculum, VectorEnv[FloatArray, NDArray[Any], NDArray[Any]]):
    """The vector environment of `AlgorithmicEnv`, with the same arguments.

    After `reset(seed=s)`, sub-environment i plays the episodes of an `AlgorithmicEnv` after `reset(seed=s + i)` if the
    curriculum, which all share, is "uniform". `reset` also takes a list of seeds, one for each sub-environment.
    Sub-environments reset in the step that ends their episode (`AutoresetMode.SAME_STEP`).
    """

    accepts_seed_list = True  # `reset` takes a list of seeds

    def __init__(
        self,
        num_envs: int,
        task: str,
        *,
        curriculum: str = "uniform",
        render_mode: str | None = None,
        **options: Any,
    ):
        check_render_mode(render_mode)
        self.metadata = {
            "render_modes": RENDER_MODES,
            "render_fps": RENDER_FPS,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
        self.render_mode = render_mode
        self.num_envs = num_envs
        made = make_task(task, **options)
        self._playback = Playback(made, num_envs, Curriculum(made, curriculum))
        self.single_observation_space = self._playback.observation_space
        self.single_action_space = self._playback.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._indices = np.arange(num_envs)
        self._everywhere = np.ones(num_envs, dtype=np.bool_)
        self._generators = [np.random.default_rng() for _ in self._indices]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Begins new sequences in all sub-environments, or in those of `options["reset_mask"]`."""
        reseed(self._generators, seed)
        mask = (options or {}).get("reset_mask")
        self._playback.begin(self._indices if mask is None else np.flatnonzero(mask), self._generators)
        return self._playback.observations(), self._info()

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[FloatArray, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Plays one step in every sub-environment."""
        rewards, ended = self._playback.step(np.asarray(actions))
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        if not ended.any():
            return self._playback.observations(), rewards, ended, truncated, self._info()
        last = {
            "final_obs": self._playback.observations(),
            "_final_obs": ended,
            "final_info": self._info(),
            "_final_info": ended,
        }
        self._playback.begin(np.flatnonzero(ended), self._generators)
        return self._playback.observations(), rewards, ended, truncated, {**self._info(), **last}

    def get_state(self) -> State:
        """See `ntm_rl.envs.state`; without the curriculum, which may be shared."""
        return {"generators": list(map(generator_state, self._generators)), "playback": self._playback.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> FloatArray:
        """See `ntm_rl.envs.state`."""
        generators = generators_of(state, self.num_envs)
        observations = self._playback.set_state(part_of(state, "playback"))
        self._generators = generators
        return observations

    def fix_level(self, level: int) -> None:
        """Fixes the curriculum at a level; see `Curriculum.fix`."""
        self.curriculum.fix(level)

    def render(self) -> Any:
        """Returns the episode so far of every sub-environment, as images or as text."""
        mode = self.render_mode
        return None if mode is None else tuple(render(self._playback, index, mode) for index in range(self.num_envs))

    def _info(self) -> dict[str, Any]:
        info = self._playback.info()
        return {**info, "_target": self._everywhere, "_mask": self._everywhere}


def render(playback: Playback, index: int, mode: str) -> Any:
    """Renders the episode of a sub-environment up to its current step."""
    episode, answers = playback.episode(index)
    now = int(playback.time[index])
    if mode == "ansi":
        return render_text(*episode, answers, now)
    return render_image(*episode, answers, now, playback.longest)
