"""Base classes of the vector environments that step all sub-environments with NumPy operations."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ntm_rl.envs.state import State, array_of, generator_of, generator_state, generators_of
from ntm_rl.errors import InputError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

RENDER_MODES = ["rgb_array", "ansi"]  # of the algorithmic tasks and the diagnostic environments
RENDER_FPS = 8


class BatchedEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """A vector environment with array observations.

    Sub-environments reset in the step that ends their episode (`AutoresetMode.SAME_STEP`), which returns the last
    observations in `info["final_obs"]`. `reset(options={"reset_mask": ...})` resets some of them.

    Args:
        num_envs: Number of sub-environments.
        observation_space: Observation space of a sub-environment.
        actions: Number of actions, or the action space of a sub-environment.

    Attributes:
        observation_names: Names of an observation's numbers, or of the values of a Discrete, for display; may be empty.
        action_names: Names of the actions, for display; may be empty.
    """

    observation_names: Sequence[str] = ()
    action_names: Sequence[str] = ()

    def __init__(self, num_envs: int, observation_space: spaces.Space[Any], actions: int | spaces.Space[Any]):
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.single_observation_space = observation_space
        self.single_action_space = actions if isinstance(actions, spaces.Space) else spaces.Discrete(actions)
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._last_actions = last_actions(self.single_action_space, num_envs)
        self._indices = np.arange(num_envs)
        self._time = np.zeros(num_envs, dtype=np.int64)
        self._observations = np.zeros((num_envs, *(observation_space.shape or ())), dtype=observation_space.dtype)

    @abstractmethod
    def begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[Any]:
        """Begins episodes in the sub-environments `indices` `[E]` and returns their first observations `[E, ...]`.

        `options` are those of `reset`, and empty in an automatic reset.
        """

    @abstractmethod
    def play(self, actions: NDArray[Any]) -> tuple[NDArray[Any], FloatArray, BoolArray, BoolArray]:
        """Plays one step without resets; returns observations, rewards, `terminated` and `truncated`."""

    def final_infos(self) -> dict[str, NDArray[Any]]:
        """Returns infos of the episodes that end in this step, such as `is_success`: arrays `[num_envs]`."""
        return {}

    @property
    def max_episode_steps(self) -> int | None:
        """Steps of the longest episode, None if unknown; the state holds the time before the last step at most."""
        bounds = self.state_bounds().get("_time")
        return None if bounds is None else int(bounds[1]) + 1

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """Returns the smallest and largest value of each attribute that belongs to the state, by name.

        An environment without any cannot save its state.
        """
        return {}

    def get_state(self) -> State | None:
        """See `ntm_rl.envs.state`."""
        names = list(self.state_bounds())
        if not names:
            return None
        arrays = {name.removeprefix("_"): getattr(self, name).copy() for name in ("_observations", *names)}
        return {"generator": generator_state(self.np_random), **arrays}

    def set_state(self, state: Mapping[str, Any]) -> NDArray[Any]:
        """See `ntm_rl.envs.state`."""
        generator = generator_of(state.get("generator"))
        observations = array_of(state, "observations", self._observations)
        if not self.observation_space.contains(observations):
            raise InputError(f"state 'observations': not in {self.single_observation_space}")
        arrays = {
            name: array_of(state, name.removeprefix("_"), getattr(self, name), low, high)
            for name, (low, high) in self.state_bounds().items()
        }
        self.np_random, self._observations = generator, observations
        for name, array in arrays.items():
            setattr(self, name, array)
        return self._observations

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begins an episode in all sub-environments, or in those of `options["reset_mask"]`."""
        super().reset(seed=seed)
        options = options or {}
        mask = options.get("reset_mask")
        indices = self._indices if mask is None else np.flatnonzero(mask)
        self._observations = self._observations.copy()
        self._observations[indices] = self._begin(indices, options)
        return self._observations, {}

    def step(self, actions: NDArray[Any]) -> tuple[NDArray[Any], FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Plays one step in every sub-environment.

        Raises:
            InputError: the actions are not in the action space.
        """
        observations, rewards, terminated, truncated = self.advance(self.check_actions(actions))
        ended = terminated | truncated
        info: dict[str, Any] = {}
        if np.count_nonzero(ended):  # five times as fast as `any`
            info = {"final_obs": observations.copy(), "_final_obs": ended}
            final = self.final_infos()
            if final:
                final |= {f"_{name}": ended for name in final}
                info |= {"final_info": final, "_final_info": ended}
            finished = ended.nonzero()[0]
            observations[finished] = self._begin(finished, {})
        self._observations = observations
        return observations, rewards, terminated, truncated, info

    def check_actions(self, actions: Any) -> NDArray[Any]:
        """Returns actions as an array, discrete ones as int64.

        Raises:
            InputError: the actions are not in the action space.
        """
        checked: NDArray[Any] = np.asarray(actions)
        # `action_space.contains` takes as long as a whole step of a small game.
        if checked.shape == self.action_space.shape and checked.dtype.kind in "biu":
            integers: NDArray[np.int64] = checked.astype(np.int64, copy=False)
            if not np.count_nonzero(integers.view(np.uint64) > self._last_actions):  # negative ones are the largest
                return integers
        raise InputError(f"actions = {actions}: must be {self.num_envs} {name_elements(self.single_action_space)}")

    def advance(self, actions: NDArray[Any]) -> tuple[NDArray[Any], FloatArray, BoolArray, BoolArray]:
        """Counts and plays one step; see `play`."""
        self._time += 1
        return self.play(actions)

    def _begin(self, indices: IntArray, options: dict[str, Any]) -> NDArray[Any]:
        self._time[indices] = 0
        return self.begin(indices, options)


def check_render_mode(mode: str | None) -> None:
    """Raises an `InputError` for an unknown render mode."""
    if mode not in (None, *RENDER_MODES):
        raise InputError(f"render_mode = {mode!r}: must be one of {', '.join(RENDER_MODES)}, or None")


class SeededBatchedEnv(BatchedEnv):
    """A `BatchedEnv` whose sub-environments have a random generator each.

    After `reset(seed=s)`, sub-environment i plays the episodes of the single environment after `reset(seed=s + i)`.
    `reset` also takes a list of seeds, one for each sub-environment.

    Args:
        num_envs: Number of sub-environments.
        observation_space: Observation space of a sub-environment.
        actions: Number of actions, or the action space of a sub-environment.

    Attributes:
        generators: The random generator of each sub-environment.
    """

    accepts_seed_list = True  # `reset` takes a list of seeds

    def __init__(self, num_envs: int, observation_space: spaces.Space[Any], actions: int | spaces.Space[Any]):
        super().__init__(num_envs, observation_space, actions)
        self.generators = [np.random.default_rng() for _ in range(num_envs)]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """See `BatchedEnv.reset`."""
        reseed(self.generators, seed)
        first = seed if seed is None or isinstance(seed, (int, np.integer)) else seed[0]
        return super().reset(seed=first, options=options)

    def get_state(self) -> State | None:
        """See `ntm_rl.envs.state`."""
        state = super().get_state()
        return None if state is None else {**state, "generators": list(map(generator_state, self.generators))}

    def set_state(self, state: Mapping[str, Any]) -> NDArray[Any]:
        """See `ntm_rl.envs.state`."""
        generators = generators_of(state, self.num_envs)
        observations = super().set_state(state)
        self.generators = generators
        return observations


def last_actions(space: spaces.Space[Any], num_envs: int) -> Any:
    """Returns the largest action of each sub-environment as uint64 `[num_envs, ...]`; None for a Box."""
    if isinstance(space, spaces.MultiDiscrete):
        return np.tile(space.nvec - 1, (num_envs, 1)).astype(np.uint64)
    return np.full(num_envs, space.n - 1, dtype=np.uint64) if isinstance(space, spaces.Discrete) else None


def name_elements(space: spaces.Space[Any]) -> str:
    """Returns the elements of an action space in words, for errors."""
    return f"integers from 0 to {space.n - 1}" if isinstance(space, spaces.Discrete) else f"elements of {space}"


def reseed(generators: list[np.random.Generator], seed: int | Sequence[int | None] | None) -> None:
    """Seeds the generators of sub-environments as Gymnasium's vector environments do.

    Args:
        generators: One for each sub-environment; seeded ones are replaced.
        seed: `seed + i` for sub-environment i, or a list of seeds in which None leaves a generator as it is.

    Raises:
        InputError: the number of seeds is not that of the generators.
    """
    if seed is None:
        return
    seeds = [seed + index for index in range(len(generators))] if isinstance(seed, (int, np.integer)) else list(seed)
    if len(seeds) != len(generators):
        raise InputError(f"seed = {seeds}: must be one number, or {len(generators)}, one for each sub-environment")
    for index, each in enumerate(seeds):
        if each is not None:
            generators[index] = gym.utils.seeding.np_random(int(each))[0]
