"""Atari 2600 games as a vector environment, based on ALE's own (Bellemare et al. 2013; Farama's ale-py)."""

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ntm_rl.checks import require_at_least
from ntm_rl.envs.batched.atari_game import AFTER_FIRE, AtariGame, Frames, Outcome
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
    continues. Truncates at the frame limit.

    ## Start of an Episode
    As in SB3's `AtariWrapper`: a new game with no-ops or, after a lost life, a no-op step; then FIRE and action 2 in
    games with FIRE. The stack has only the last of these frames. Without `terminal_on_life_loss`, these steps of a new
    life, of games with FIRE only, are a part of the step that lost the last one.

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
        fire_reset: Annotated[bool, "Press FIRE at the start of games and lives, in games with FIRE."] = True,
        clip_rewards: Annotated[bool, "Clip rewards to [-1, 1]."] = True,
        full_action_space: Annotated[bool, "All 18 actions instead of the game's minimal set."] = False,
        max_frames: Annotated[int, "Frames after which a game is truncated."] = 108_000,
        flicker: Annotated[float, "Probability that a frame is blank (Hausknecht and Stone 2015)."] = 0.0,
    ):
        require_at_least(1, num_envs=num_envs, frame_skip=frame_skip, stack=stack, size=size, max_frames=max_frames)
        require_at_least(0, noop_max=noop_max)
        _require_probability(repeat_action_probability=repeat_action_probability, flicker=flicker)
        if max_pool and frame_skip == 1:
            raise InputError("max_pool = True: needs frame_skip of at least 2; set max_pool to false")
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
        self.num_envs, self.render_mode, self._flicker = num_envs, "rgb_array", flicker
        self._max_frames, self._clip_rewards, self._grayscale = max_frames, clip_rewards, grayscale
        self._terminal_on_life_loss = terminal_on_life_loss
        from ale_py.vector_env import AtariVectorEnv as AleVectorEnv  # imported for Atari only, as it is slow

        # A vector environment of ALE steps all of its games at once, so each game has its own.
        make_ale = partial(
            AleVectorEnv,
            game,
            1,
            num_threads=1,
            max_num_frames_per_episode=max_frames + 2 * frame_skip,  # not reached
            repeat_action_probability=repeat_action_probability,
            full_action_space=full_action_space,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=size,
            img_width=size,
            grayscale=grayscale,
            stack_num=stack,
            frameskip=frame_skip,
            maxpool=max_pool,
            noop_max=noop_max + 1,  # exclusive
            reward_clipping=False,
            use_fire_reset=False,
        )
        first = make_ale()
        self.action_meanings = [action.name for action in first.ale.get_action_set()]
        presses_fire = fire_reset and self.action_meanings[1:2] == ["FIRE"] and len(self.action_meanings) > AFTER_FIRE
        has_noop = terminal_on_life_loss or presses_fire
        emulators = [first, *(make_ale() for _ in range(num_envs - 1))]
        max_steps = math.ceil(max_frames / frame_skip)
        self._games = [AtariGame(each.ale, presses_fire, has_noop, max_steps) for each in emulators]
        self._init_spaces((stack if grayscale else 3 * stack, size, size), first.single_action_space)
        self._rng = np.random.default_rng()
        self._blanked: Mask = np.zeros((num_envs, stack), dtype=np.bool_)  # frames of the stacks
        self._frames: Frames = np.zeros(self.observation_space.shape or (), dtype=np.uint8)

    def _init_spaces(self, shape: tuple[int, int, int], action_space: spaces.Space[Any]) -> None:
        self.single_observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.single_action_space = action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Begins episodes in all or in `options["reset_mask"]` sub-environments; a game with lives left continues."""
        mask = (options or {}).get("reset_mask")
        if mask is None:
            mask = np.ones(self.num_envs, dtype=np.bool_)
            self._seed_games(seed)
        else:
            for index in np.flatnonzero(mask).tolist():
                game = self._games[index]
                is_old = game.is_over and len(game.actions) >= MAX_STEPS_FROM_SEED
                game.begin(int(self._rng.integers(MAX_SEED)) if is_old else None)
        self._draw_flicker(mask)
        return self._observe(), {}

    def step(self, actions: NDArray[Any]) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Steps all games."""
        for game, action in zip(self._games, np.asarray(actions).tolist(), strict=True):
            game.send(action)
        outcomes = [self._receive(game) for game in self._games]
        rewards = np.array([each.reward for each in outcomes], dtype=np.float64)
        over = np.array([each.is_over for each in outcomes])
        truncated = np.array([each.is_truncated for each in outcomes])
        lost = np.array([each.has_lost_life for each in outcomes])
        info: dict[str, Any] = {"lives": np.array([game.lives for game in self._games])}
        if over.any() or lost.any():
            info |= {"episode": self._statistics(), "_episode": over}
        terminated = (over & ~truncated) | (lost & self._terminal_on_life_loss)
        self._blanked = np.roll(self._blanked, -1, axis=1)
        self._draw_flicker(np.ones(self.num_envs, dtype=np.bool_))
        rewards = np.clip(rewards, -1, 1) if self._clip_rewards else rewards
        return self._observe(), rewards, terminated, truncated, info

    def _receive(self, game: AtariGame) -> Outcome:
        outcome = game.receive()
        if outcome.has_lost_life and not self._terminal_on_life_loss:
            reward = outcome.reward + game.next_life()
            return outcome._replace(reward=reward, is_over=game.is_over)
        return outcome

    def _statistics(self) -> dict[str, NDArray[Any]]:
        games, now = self._games, time.time()
        return {
            "r": np.array([game.score for game in games], dtype=np.float64),
            "l": np.array([game.length for game in games]),
            "t": np.array([now - game.start_time for game in games]),
        }

    def get_state(self) -> State:
        """See `ntm_rl.envs.state`; ALE's vector environment exposes no state: a resume replays the actions."""
        steps = self._steps
        actions = np.zeros((self.num_envs, int(steps.max())), dtype=np.uint8)
        for row, game in zip(actions, self._games, strict=True):
            row[: len(game.actions)] = np.frombuffer(game.actions, dtype=np.uint8)
        seeds = np.array([game.seed for game in self._games])
        arrays = {"actions": actions, "seeds": seeds, "steps": steps, "blanked": self._blanked.copy()}
        return {"generator": generator_state(self._rng), **arrays}

    def set_state(self, state: Mapping[str, Any]) -> Frames:
        """See `ntm_rl.envs.state`; replays the steps since the last seed, at most 10,000 and a game."""
        rng, actions = generator_of(state.get("generator")), state.get("actions")
        longest = MAX_STEPS_FROM_SEED + self._max_frames + 1
        steps = array_of(state, "steps", self._steps, 0, longest)
        like = np.zeros((self.num_envs, int(steps.max())), dtype=np.uint8)
        actions = array_of(state, "actions", like, 0, len(self.action_meanings) - 1)
        seeds = array_of(state, "seeds", self._steps, 0, MAX_SEED)
        blanked = array_of(state, "blanked", self._blanked)
        self._replay(seeds, steps, actions)
        self._rng, self._blanked = rng, blanked
        return self._observe()

    @property
    def _steps(self) -> NDArray[np.int64]:
        """Steps since the last seed, `[E]`."""
        return np.array([len(game.actions) for game in self._games])

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Returns the latest frame of every sub-environment as RGB, without flicker."""
        newest = self._frames[:, -1:] if self._grayscale else self._frames[:, -3:]
        return tuple(np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0).copy() for frame in newest)

    def close_extras(self, **kwargs: Any) -> None:
        """Deletes the emulators."""
        self._games.clear()

    def _seed_games(self, seed: int | list[int | None] | None) -> None:
        """Starts all games with the given or with random seeds; they then depend only on seed and actions."""
        if seed is None:
            seeds = self._rng.integers(MAX_SEED, size=self.num_envs).tolist()
        elif not isinstance(seed, list):
            seeds = [seed + index for index in range(self.num_envs)]
        elif len(seed) != self.num_envs or None in seed:
            raise InputError(f"seed = {seed}: must be one number, or {self.num_envs}, one for each sub-environment")
        else:
            seeds = seed
        if seed is not None:
            self._rng = np.random.default_rng([seeds[0], 1])
        self._begin([each % MAX_SEED for each in seeds])

    def _begin(self, seeds: list[int]) -> None:
        """Starts all games with seeds, on all processors: each reloads the ROM."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(AtariGame.begin, self._games, seeds))  # raises errors

    def _replay(self, seeds: NDArray[np.int64], steps: NDArray[np.int64], actions: NDArray[np.uint8]) -> None:
        """Replays the first `steps[i]` of `actions` `[E, T]` in sub-environment i."""
        self._begin(seeds.tolist())
        for step in range(actions.shape[1]):
            playing = [(game, row) for game, row, last in zip(self._games, actions, steps, strict=True) if step < last]
            for game, row in playing:
                game.send(int(row[step]))
            for game, _ in playing:
                outcome = self._receive(game)
                if outcome.is_over or (outcome.has_lost_life and self._terminal_on_life_loss):
                    game.begin()

    def _draw_flicker(self, mask: Mask) -> None:
        """Draws whether the newest frames are blank, in some sub-environments."""
        if self._flicker:
            drawn = self._rng.random(self.num_envs) < self._flicker
            self._blanked[mask, -1] = drawn[mask]

    def _observe(self) -> Frames:
        """Returns the observations of all games, channels first."""
        frames = np.stack([game.frames for game in self._games])
        self._frames = frames if self._grayscale else np.moveaxis(frames, -1, 2).reshape(self._frames.shape)
        if not self._flicker:
            return self._frames
        blanked = self._blanked.repeat(self._frames.shape[1] // self._blanked.shape[1], axis=1)  # colours
        return np.where(blanked[:, :, None, None], np.uint8(0), self._frames)


def _require_probability(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise InputError(f"{name} = {value!r}: must be a probability from 0 to 1")
