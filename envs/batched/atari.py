"""Atari 2600 games as a vector environment, based on ALE's own (Bellemare et al. 2013; Farama's ale-py)."""

import os
import time
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.envs.state import State, array_of, generator_of, generator_state
from ntm_rl.errors import InputError

PREFIX = "ALE/"
EVALUATION_OPTIONS = {
    "terminal_on_life_loss": False,
    "clip_rewards": False,
}  # whole games and raw scores
MAX_SEED = 2**30  # ALE's seeds are signed 32-bit integers
# Steps after which the next game is seeded: this reloads the ROM (140 ms), but bounds the steps that a resume replays.
MAX_STEPS_FROM_SEED = 10_000

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class AtariVectorEnv(VectorEnv[Frames, NDArray[np.int64], NDArray[Any]]):
    """An Atari game with the usual preprocessing (Mnih et al. 2015; Machado et al. 2018).

    ## Observation Space
    `Box(0, 255, (stack, size, size), uint8)`, channels first, or `(3 * stack, size, size)` in colour.

    ## Action Space
    `Discrete`: the game's minimal action set, or all 18 actions.

    ## Rewards
    The game's, optionally clipped to [-1, 1]. At the end of a game, `info["episode"]` has its unclipped score, length
    in steps and duration over all lives.

    ## Episode End
    Terminates at the end of the game and, with `terminal_on_life_loss`, at the loss of a life: the same game then
    continues, and the agent itself must press FIRE where the game waits for it. Truncates at the frame limit.

    `reset(seed=s)` seeds sub-environment i with s + i, as in Gymnasium; `reset` also takes a list of seeds. Ended
    episodes are reset by `reset(options={"reset_mask": ...})` only (`AutoresetMode.DISABLED`).

    Raises:
        InputError: an option is out of range, or options contradict each other.
    """

    accepts_seed_list = True  # `reset` takes a list of seeds

    def __init__(
        self,
        num_envs: int,
        *,
        game: Annotated[str, "Name of the ROM, such as ms_pacman."],
        frame_skip: Annotated[int, "Frames per step; the action is repeated and rewards are summed."] = 4,
        max_pool: Annotated[bool, "Observe the pixelwise maximum of a step's last two frames."] = True,
        stack: Annotated[int, "Number of stacked frames; 1 leaves the past to memory."] = 4,
        grayscale: Annotated[bool, "Grayscale instead of colour frames."] = True,
        size: Annotated[int, "Height and width of a frame."] = 84,
        noop_max: Annotated[int, "Maximum number of no-op steps at the start of a game."] = 30,
        repeat_action_probability: Annotated[float, "Probability of sticky actions."] = 0.0,
        terminal_on_life_loss: Annotated[bool, "End the episode, not the game, at the loss of a life."] = True,
        fire_reset: Annotated[bool, "Press FIRE at the start of a game that waits for it."] = True,
        clip_rewards: Annotated[bool, "Clip rewards to [-1, 1]."] = True,
        full_action_space: Annotated[bool, "All 18 actions instead of the game's minimal set."] = False,
        max_frames: Annotated[int, "Frames after which a game is truncated."] = 108_000,
        flicker: Annotated[float, "Probability that an observation is blank (Hausknecht and Stone 2015)."] = 0.0,
    ):
        require_at_least(1, num_envs=num_envs, frame_skip=frame_skip, stack=stack, size=size, max_frames=max_frames)
        require_at_least(0, noop_max=noop_max)
        _require_probability(repeat_action_probability=repeat_action_probability, flicker=flicker)
        if max_pool and frame_skip == 1:
            raise InputError("max_pool = True: needs frame_skip of at least 2; set max_pool to false")
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
        self.num_envs, self.render_mode, self._flicker = num_envs, "rgb_array", flicker
        self._max_frames = max_frames
        self._terminal_on_life_loss, self._clip_rewards, self._grayscale = (
            terminal_on_life_loss,
            clip_rewards,
            grayscale,
        )
        from ale_py.vector_env import AtariVectorEnv as AleVectorEnv  # imported for Atari only, as it is slow

        # Only NEXT_STEP returns the last observation; resets by mask leave no reset steps.
        self._ale = AleVectorEnv(
            game,
            num_envs,
            num_threads=min(num_envs, _available_cpus()),
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=size,
            img_width=size,
            grayscale=grayscale,
            stack_num=stack,
            frameskip=frame_skip,
            maxpool=max_pool,
            noop_max=noop_max,
            reward_clipping=False,
            use_fire_reset=fire_reset,
        )
        self._init_spaces((stack if grayscale else 3 * stack, size, size))
        self._init_state()

    def _init_spaces(self, shape: tuple[int, int, int]) -> None:
        self.single_observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.single_action_space = self._ale.single_action_space
        self.action_meanings = [action.name for action in self._ale.ale.get_action_set()]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _init_state(self) -> None:
        num_envs = self.num_envs
        self._rng = np.random.default_rng()
        self._lives = np.zeros(num_envs, dtype=np.int32)
        # ALE's vector environment exposes no state: a resume replays the steps since the last seed.
        self._seeds = np.zeros(num_envs, dtype=np.int64)
        self._steps = np.zeros(num_envs, dtype=np.int64)  # since the last seed
        self._actions = np.zeros((num_envs, 1024), dtype=np.uint8)  # in these steps
        self._indices = np.arange(num_envs)
        self._blanked: Mask = np.zeros(num_envs, dtype=np.bool_)
        self._scores, self._lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
        self._start_times = np.zeros(num_envs)
        self._game_over: Mask = np.ones(num_envs, dtype=np.bool_)
        self._frames: Frames = np.zeros(self.observation_space.shape or (), dtype=np.uint8)
        self._observations = self._frames

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Starts games in all or in `options["reset_mask"]` sub-environments; a game with lives left continues."""
        seeds = None if seed is None else self._seed_of_each(seed)
        if seeds is not None:
            self._rng = np.random.default_rng([int(seeds[0]), 1])
        mask = (options or {}).get("reset_mask")
        if mask is None:
            started = np.ones(self.num_envs, dtype=np.bool_)
            if seeds is None:
                seeds = self._rng.integers(MAX_SEED, size=self.num_envs)
            frames, info = self._seed_games(started, seeds % MAX_SEED)
        else:
            started = mask & self._game_over
            if not started.any():  # only lives were lost
                return self._observations, {}
            frames, info = self._start_games(started)
        self._lives = info["lives"].copy()
        self._game_over = self._game_over & ~started
        self._scores[started], self._lengths[started], self._start_times[started] = 0, 0, time.time()
        blanked = self._blanked
        observations = self._observe(frames)
        observations[~started] = self._observations[~started]  # unchanged, with their blank frames
        self._blanked = np.where(started, self._blanked, blanked)
        self._observations = observations
        return observations, info

    def step(self, actions: NDArray[Any]) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Steps all games."""
        actions = np.asarray(actions, dtype=np.int64)
        if self._steps.max() == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        self._actions[self._indices, self._steps] = actions
        self._steps += 1
        frames, raw_rewards, terminated, truncated, lives = self._ale.step(actions)
        info: dict[str, Any] = {**lives}
        rewards = raw_rewards.astype(np.float64)
        self._scores += rewards
        self._lengths += 1
        self._game_over = terminated | truncated
        if self._terminal_on_life_loss:
            terminated = terminated | (info["lives"] < self._lives)
        self._lives = info["lives"].copy()
        if self._game_over.any() or terminated.any():
            seconds = time.time() - self._start_times
            info["episode"] = {"r": self._scores.copy(), "l": self._lengths.copy(), "t": seconds}
            info["_episode"] = self._game_over
        if self._clip_rewards:
            rewards = np.clip(rewards, -1, 1)
        self._observations = self._observe(frames)
        return self._observations, rewards, terminated, truncated & ~terminated, info

    def get_state(self) -> State:
        """See `ntm_rl.envs.state`."""
        counts = {name: getattr(self, f"_{name}").copy() for name in ("seeds", "steps", "scores", "lengths", "blanked")}
        actions = self._actions[:, : self._steps.max()].copy()
        return {"generator": generator_state(self._rng), "actions": actions, **counts}

    def set_state(self, state: Mapping[str, Any]) -> Frames:
        """See `ntm_rl.envs.state`; replays the steps since the last seed, at most 10,000 and a game."""
        rng, actions = generator_of(state.get("generator")), state.get("actions")
        longest = MAX_STEPS_FROM_SEED + self._max_frames + 1
        steps = array_of(state, "steps", self._steps, 0, longest)
        like = np.broadcast_to(self._actions[:1, :1], (self.num_envs, int(steps.max())))
        actions = array_of(state, "actions", like, 0, len(self.action_meanings) - 1)
        seeds = array_of(state, "seeds", self._seeds, 0, MAX_SEED)
        scores, lengths = array_of(state, "scores", self._scores), array_of(state, "lengths", self._lengths, 0)
        blanked = array_of(state, "blanked", self._blanked)
        frames, lives = self._replay(seeds, steps, actions)
        self._rng, self._seeds, self._steps, self._blanked = rng, seeds, steps, blanked
        self._actions = np.concatenate([actions, np.zeros((self.num_envs, 1024), dtype=np.uint8)], axis=1)
        self._scores, self._lengths, self._lives = scores, lengths, lives
        self._start_times = np.full(self.num_envs, time.time())
        self._game_over = np.zeros(self.num_envs, dtype=np.bool_)
        self._observations = self._blank(self._channels_first(frames))
        return self._observations

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Returns the latest frame of every sub-environment as RGB, without flicker."""
        newest = self._frames[:, -1:] if self._grayscale else self._frames[:, -3:]
        return tuple(np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0).copy() for frame in newest)

    def close_extras(self, **kwargs: Any) -> None:
        """Deletes the emulators."""
        del self._ale

    def _seed_of_each(self, seed: int | list[int | None]) -> NDArray[np.int64]:
        if not isinstance(seed, list):
            return seed + self._indices
        if len(seed) != self.num_envs or None in seed:
            raise InputError(f"seed = {seed}: must be one number, or {self.num_envs}, one for each sub-environment")
        return np.array(seed, dtype=np.int64)

    def _seed_games(self, started: Mask, seeds: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Seeds and starts games, which then depend only on seed and actions."""
        self._seeds[started], self._steps[started] = seeds[started], 0
        frames, info = self._ale.reset(seed=seeds[started].astype(np.int32), options={"reset_mask": started})
        return frames, info

    def _start_games(self, started: Mask) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        old = started & (self._steps >= MAX_STEPS_FROM_SEED)
        if (started & ~old).any():
            frames, info = self._ale.reset(options={"reset_mask": started & ~old})
        if old.any():
            frames, info = self._seed_games(old, self._rng.integers(MAX_SEED, size=self.num_envs))
        return frames, info

    def _replay(
        self, seeds: NDArray[np.int64], steps: NDArray[np.int64], actions: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Replays the first `steps[i]` of `actions` `[E, T]` in sub-environment i; all end at the same time."""
        everywhere, none = np.ones(self.num_envs, dtype=np.bool_), np.zeros(self.num_envs, dtype=np.bool_)
        frames, info = self._ale.reset(seed=seeds.astype(np.int32), options={"reset_mask": everywhere})
        last = int(steps.max())
        for step in range(last):
            own = step - (last - steps)  # step of each sub-environment
            started = own == 0
            if started.any() and step > 0:
                self._ale.reset(seed=seeds[started].astype(np.int32), options={"reset_mask": started})
            chosen = np.where(own >= 0, actions[self._indices, np.maximum(own, 0)], 0).astype(np.int64)
            frames, _, terminated, truncated, info = self._ale.step(chosen)
            over = terminated | truncated
            if over.any():
                frames, info = self._ale.reset(options={"reset_mask": over})
        late = (steps == 0) if last else none
        if late.any():
            frames, info = self._ale.reset(seed=seeds[late].astype(np.int32), options={"reset_mask": late})
        return frames, info["lives"].copy()

    def _observe(self, frames: NDArray[np.uint8]) -> Frames:
        """Returns the observations of frames `[E, stack, size, size]` or `[E, stack, size, size, 3]`."""
        if self._flicker:
            self._blanked = self._rng.random(self.num_envs) < self._flicker
        return self._blank(self._channels_first(frames))

    def _channels_first(self, frames: NDArray[np.uint8]) -> Frames:
        self._frames = frames if self._grayscale else np.moveaxis(frames, -1, 2).reshape(self._frames.shape)
        return self._frames

    def _blank(self, frames: Frames) -> Frames:
        return np.where(self._blanked[:, None, None, None], np.uint8(0), frames) if self._flicker else frames


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1  # Linux only


def _require_probability(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise InputError(f"{name} = {value!r}: must be a probability from 0 to 1")
