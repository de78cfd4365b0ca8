"""Atari 2600 games, stepped all at once by ALE's own vector environment (Bellemare et al. 2013; Farama's ale-py)."""

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
WHOLE_GAMES = {"terminal_on_life_loss": False, "clip_rewards": False}  # what evaluations play
MAX_SEED = 2**30  # ALE's are signed 32-bit numbers
RESEED_AFTER = (
    10_000  # steps: seeding loads the ROM anew, in 140 ms; without it, going on from a checkpoint takes longer
)

Frames = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class AtariVectorEnv(VectorEnv[Frames, NDArray[np.int64], NDArray[Any]]):
    """Copies of one Atari game with the usual preprocessing (Mnih et al. 2015; Machado et al. 2018).

    ## Observation
    `Box(0, 255, (stack, size, size), uint8)`, channels first, or `(3 * stack, size, size)` in colour.

    ## Action Space
    `Discrete`: the game's own actions, or all 18.

    ## Rewards
    The game's, or their signs' worth of it in [-1, 1]. `info["episode"]` always holds the unclipped score, length in
    steps and duration of a whole game, over all its lives.

    ## Termination
    The end of the game; with `terminal_on_life_loss` also the loss of a life, after which the same game goes on (the
    agent presses FIRE itself where the game waits for it). The frame limit truncates.

    `reset(seed=s)` seeds copy i with s + i, as in Gymnasium, or each copy with its own of a list.

    An episode that ended begins anew only in `reset(options={"reset_mask": ...})` (`AutoresetMode.DISABLED`).

    Raises:
        InputError: an option outside its range, or options that contradict each other.
    """

    seeds_copies = True  # `reset` takes a list of seeds

    def __init__(
        self,
        num_envs: int,
        *,
        game: Annotated[str, "Name of the ROM, such as ms_pacman."],
        frame_skip: Annotated[int, "Frames of a step, in which the action is held and rewards add up."] = 4,
        max_pool: Annotated[bool, "Show the brighter of a step's last two frames, pixel by pixel."] = True,
        stack: Annotated[int, "Last frames that an observation shows; 1 leaves the rest to memory."] = 4,
        grayscale: Annotated[bool, "Shades of gray in place of colours."] = True,
        size: Annotated[int, "Height and width of a frame."] = 84,
        noop_max: Annotated[int, "Most steps without action at the start of a game."] = 30,
        repeat_action_probability: Annotated[float, "Probability that a frame repeats the last action."] = 0.0,
        terminal_on_life_loss: Annotated[bool, "End the episode, not the game, with a life."] = True,
        fire_reset: Annotated[bool, "Press FIRE at the start of a game that waits for it."] = True,
        clip_rewards: Annotated[bool, "Clip rewards to [-1, 1]."] = True,
        full_action_space: Annotated[bool, "All 18 actions in place of the game's own."] = False,
        max_frames: Annotated[int, "Frames after which a game is truncated."] = 108_000,
        flicker: Annotated[float, "Probability that an observation is blank (Hausknecht and Stone 2015)."] = 0.0,
    ):
        require_at_least(1, num_envs=num_envs, frame_skip=frame_skip, stack=stack, size=size, max_frames=max_frames)
        require_at_least(0, noop_max=noop_max)
        _require_probability(repeat_action_probability=repeat_action_probability, flicker=flicker)
        if max_pool and frame_skip == 1:
            raise InputError("max_pool = True where frame_skip = 1: one frame has no other to be pooled with")
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
        self.num_envs, self.render_mode, self._flicker = num_envs, "rgb_array", flicker
        self._max_frames = max_frames
        self._ends_with_life, self._clips, self._grayscale = terminal_on_life_loss, clip_rewards, grayscale
        from ale_py.vector_env import AtariVectorEnv as AleVectorEnv  # asked for by those who play Atari alone

        # NEXT_STEP is the one mode that shows the true last observation; resetting in time leaves no step unused.
        self._ale = AleVectorEnv(
            game,
            num_envs,
            num_threads=min(num_envs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1),
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
        channels = stack if grayscale else 3 * stack
        self.single_observation_space = spaces.Box(0, 255, (channels, size, size), np.uint8)
        self.single_action_space = self._ale.single_action_space
        self.action_meanings = [action.name for action in self._ale.ale.get_action_set()]
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rng = np.random.default_rng()
        self._lives = np.zeros(num_envs, dtype=np.int32)
        # ALE's vector environment gives no state away: it is played again, from each copy's last seed.
        self._seeds = np.zeros(num_envs, dtype=np.int64)
        self._played = np.zeros(num_envs, dtype=np.int64)  # steps since then
        self._actions = np.zeros((num_envs, 1024), dtype=np.uint8)  # the actions of these steps
        self._rows = np.arange(num_envs)
        self._dark: Mask = np.zeros(num_envs, dtype=np.bool_)
        self._scores, self._lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
        self._began = np.zeros(num_envs)
        self._game_over: Mask = np.ones(num_envs, dtype=np.bool_)
        self._frames: Frames = np.zeros(self.observation_space.shape or (), dtype=np.uint8)
        self._shown = self._frames

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Starts games, where `options["reset_mask"]` says so or everywhere; a game with lives left goes on."""
        seeds = None if seed is None else self._seed_of_each(seed)
        if seeds is not None:
            self._rng = np.random.default_rng([int(seeds[0]), 1])
        mask = (options or {}).get("reset_mask")
        if mask is None:
            started = np.ones(self.num_envs, dtype=np.bool_)
            if seeds is None:
                seeds = self._rng.integers(MAX_SEED, size=self.num_envs)
            frames, info = self._seed(started, seeds % MAX_SEED)
        else:
            started = mask & self._game_over
            if not started.any():  # lives were lost, and no game
                return self._shown, {}
            frames, info = self._begin(started)
        self._lives = info["lives"].copy()
        self._game_over = self._game_over & ~started
        self._scores[started], self._lengths[started], self._began[started] = 0, 0, time.time()
        dark = self._dark
        shown = self._show(frames)
        shown[~started] = self._shown[~started]  # these were shown before, or kept dark
        self._dark = np.where(started, self._dark, dark)
        self._shown = shown
        return shown, info

    def step(self, actions: NDArray[Any]) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Steps all games."""
        actions = np.asarray(actions, dtype=np.int64)
        if self._played.max() == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        self._actions[self._rows, self._played] = actions
        self._played += 1
        frames, gained, terminated, truncated, lives = self._ale.step(actions)
        info: dict[str, Any] = {**lives}
        rewards = gained.astype(np.float64)
        self._scores += rewards
        self._lengths += 1
        self._game_over = terminated | truncated
        if self._ends_with_life:
            terminated = terminated | (info["lives"] < self._lives)
        self._lives = info["lives"].copy()
        if self._game_over.any() or terminated.any():
            info["episode"] = {"r": self._scores.copy(), "l": self._lengths.copy(), "t": time.time() - self._began}
            info["_episode"] = self._game_over
        if self._clips:
            rewards = np.clip(rewards, -1, 1)
        self._shown = self._show(frames)
        return self._shown, rewards, terminated, truncated & ~terminated, info

    def get_state(self) -> State:
        """See `ntm_rl.envs.state`."""
        counts = {name: getattr(self, f"_{name}").copy() for name in ("seeds", "played", "scores", "lengths", "dark")}
        actions = self._actions[:, : self._played.max()].copy()
        return {"generator": generator_state(self._rng), "actions": actions, **counts}

    def set_state(self, state: Mapping[str, Any]) -> Frames:
        """See `ntm_rl.envs.state`; plays all steps since each copy was last seeded, 10,000 and a game at most."""
        rng, actions = generator_of(state.get("generator")), state.get("actions")
        longest = RESEED_AFTER + self._max_frames + 1
        played = array_of(state, "played", self._played, 0, longest)
        like = np.broadcast_to(self._actions[:1, :1], (self.num_envs, int(played.max())))
        actions = array_of(state, "actions", like, 0, len(self.action_meanings) - 1)
        seeds = array_of(state, "seeds", self._seeds, 0, MAX_SEED)
        scores, lengths = array_of(state, "scores", self._scores), array_of(state, "lengths", self._lengths, 0)
        dark = array_of(state, "dark", self._dark)
        frames, lives = self._replay(seeds, played, actions)
        self._rng, self._seeds, self._played, self._dark = rng, seeds, played, dark
        self._actions = np.concatenate([actions, np.zeros((self.num_envs, 1024), dtype=np.uint8)], axis=1)
        self._scores, self._lengths, self._lives = scores, lengths, lives
        self._began, self._game_over = np.full(self.num_envs, time.time()), np.zeros(self.num_envs, dtype=np.bool_)
        self._shown = self._darken(self._channels_first(frames))
        return self._shown

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Returns the newest frame of every copy as RGB, also where the agent sees none."""
        newest = self._frames[:, -1:] if self._grayscale else self._frames[:, -3:]
        return tuple(np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0).copy() for frame in newest)

    def close_extras(self, **kwargs: Any) -> None:
        """Lets go of the emulators."""
        del self._ale

    def _seed_of_each(self, seed: int | list[int | None]) -> NDArray[np.int64]:
        if not isinstance(seed, list):
            return seed + self._rows
        if len(seed) != self.num_envs or None in seed:
            raise InputError(f"seed = {seed}: must be one number, or {self.num_envs}, one for each copy")
        return np.array(seed, dtype=np.int64)

    def _seed(self, started: Mask, seeds: NDArray[np.int64]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begins games whose course their seeds and actions alone decide, whatever was played before."""
        self._seeds[started], self._played[started] = seeds[started], 0
        frames, info = self._ale.reset(seed=seeds[started].astype(np.int32), options={"reset_mask": started})
        return frames, info

    def _begin(self, started: Mask) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        old = started & (self._played >= RESEED_AFTER)
        if (started & ~old).any():
            frames, info = self._ale.reset(options={"reset_mask": started & ~old})
        if old.any():
            frames, info = self._seed(old, self._rng.integers(MAX_SEED, size=self.num_envs))
        return frames, info

    def _replay(
        self, seeds: NDArray[np.int64], played: NDArray[np.int64], actions: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Plays `actions` `[E, T]`, of each copy as many as it played; they all end together."""
        everywhere, none = np.ones(self.num_envs, dtype=np.bool_), np.zeros(self.num_envs, dtype=np.bool_)
        frames, info = self._ale.reset(seed=seeds.astype(np.int32), options={"reset_mask": everywhere})
        last = int(played.max())
        for step in range(last):
            own = step - (last - played)  # of each copy
            started = own == 0
            if started.any() and step > 0:
                self._ale.reset(seed=seeds[started].astype(np.int32), options={"reset_mask": started})
            chosen = np.where(own >= 0, actions[self._rows, np.maximum(own, 0)], 0).astype(np.int64)
            frames, _, terminated, truncated, info = self._ale.step(chosen)
            over = terminated | truncated
            if over.any():
                frames, info = self._ale.reset(options={"reset_mask": over})
        late = (played == 0) if last else none
        if late.any():
            frames, info = self._ale.reset(seed=seeds[late].astype(np.int32), options={"reset_mask": late})
        return frames, info["lives"].copy()

    def _show(self, frames: NDArray[np.uint8]) -> Frames:
        """Returns what the agents see of `[E, stack, size, size]` or `[E, stack, size, size, 3]`: channels first."""
        if self._flicker:
            self._dark = self._rng.random(self.num_envs) < self._flicker
        return self._darken(self._channels_first(frames))

    def _channels_first(self, frames: NDArray[np.uint8]) -> Frames:
        self._frames = frames if self._grayscale else np.moveaxis(frames, -1, 2).reshape(self._frames.shape)
        return self._frames

    def _darken(self, frames: Frames) -> Frames:
        return np.where(self._dark[:, None, None, None], np.uint8(0), frames) if self._flicker else frames


def _require_probability(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise InputError(f"{name} = {value!r}: must be a probability from 0 to 1")
