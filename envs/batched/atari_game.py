"""One Atari game in ALE, with the resets of Stable-Baselines3's `AtariWrapper`."""

import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NOOP, FIRE, AFTER_FIRE = 0, 1, 2  # SB3's `FireResetEnv` takes action 2 after FIRE

Frames = NDArray[np.uint8]


class Outcome(NamedTuple):
    """What a step led to.

    Attributes:
        reward: Sum over the step's frames, not clipped.
        is_over: Whether the game has ended, by its rules or at the frame limit.
        is_truncated: Whether it has ended at the frame limit only.
        has_lost_life: Whether a life was lost and others remain.
    """

    reward: int
    is_over: bool
    is_truncated: bool
    has_lost_life: bool


class AtariGame:
    """An Atari game that steps and resets independently of others; the emulator has its own thread.

    Args:
        ale: The `ale_py.ALEVectorInterface` of one game, which does not press FIRE itself.
        presses_fire: Press FIRE and then take action 2 at the start of games and lives.
        has_noop: Take a no-op step after a lost life, as SB3's `EpisodicLifeEnv`.
        max_steps: Steps after which a game is truncated; the emulator's own limit must be higher, as it leaves out a
            step's last frame.

    Attributes:
        lives: Lives left.
        score: Sum of the game's rewards, including those in resets.
        length: Steps of the agent in the game.
        start_time: Start of the game, in seconds since the epoch.
        is_over: Whether the next `begin` starts a new game.
        seed: The last seed.
        actions: The agent's actions since the last seed; with the seed, they determine the game.
    """

    def __init__(self, ale: Any, presses_fire: bool, has_noop: bool, max_steps: int):
        self._ale = ale
        self._presses_fire, self._has_noop, self._max_steps = presses_fire, has_noop, max_steps
        self._strength = np.ones(1, dtype=np.float32)
        self._stack: Frames = np.zeros(0, dtype=np.uint8)
        self._age = 0  # frames of the episode in the stack
        self._steps = 0  # of the game, with those of resets
        self.lives = self.score = self.length = 0
        self.start_time, self.is_over, self.seed = time.time(), True, 0
        self.actions = bytearray()

    @property
    def frames(self) -> Frames:
        """The last frames of the episode, `[stack, size, size]` or with colours last, 0 before its start."""
        missing = len(self._stack) - self._age
        if missing <= 0:
            return self._stack
        return np.concatenate([np.zeros_like(self._stack[:missing]), self._stack[missing:]])

    def begin(self, seed: int | None = None) -> None:
        """Begins an episode: a new game if the last one is over or with a seed, else the next life."""
        if self.is_over or seed is not None:
            self._start(seed)
        else:
            self._pass(NOOP)
        if self._presses_fire:
            self._pass(FIRE)
            self._pass(AFTER_FIRE)
        self._age = 1

    def next_life(self) -> int:
        """Continues with the next life as `begin` does, without an end of the episode; returns the reward."""
        actions = (*([NOOP] if self._has_noop else []), *([FIRE, AFTER_FIRE] if self._presses_fire else []))
        before = self.score
        for action in actions:
            if not self.is_over:
                self._step(action)
        self._age = 1 if actions else self._age
        return self.score - before

    def send(self, action: int) -> None:
        """Starts a step of the agent, whose outcome `receive` returns."""
        self.actions.append(action)
        self.length += 1
        self._send(action)

    def receive(self) -> Outcome:
        """Waits for the step that `send` has started."""
        frames, rewards, terminated, _, info = self._ale.recv()
        reward, lives, is_terminated = int(rewards[0]), int(info["lives"][0]), bool(terminated[0])
        self._steps += 1
        is_truncated = self._steps >= self._max_steps and not is_terminated
        # Some games have 0 lives for a few frames before their end (SB3's `EpisodicLifeEnv`).
        has_lost_life = 0 < lives < self.lives
        self._stack, self.lives, self.is_over = frames[0], lives, is_terminated or is_truncated
        self.score += reward
        self._age += 1
        return Outcome(reward, self.is_over, is_truncated, has_lost_life and not self.is_over)

    def _start(self, seed: int | None = None) -> None:
        if seed is not None:  # reloads the ROM
            self.seed = seed
            self.actions.clear()
        frames, info = self._ale.reset(np.zeros(1, dtype=np.int64), np.array([-1 if seed is None else seed]))
        self._stack, self.lives, self.is_over = frames[0], int(info["lives"][0]), False
        self.score = self.length = self._steps = 0
        self.start_time = time.time()

    def _pass(self, action: int) -> None:
        """Takes a step before the episode's first; what ends in it begins anew."""
        outcome = self._step(action)
        if outcome.has_lost_life:
            outcome = self._step(NOOP)
        if outcome.is_over:
            self._start()

    def _step(self, action: int) -> Outcome:
        self._send(action)
        return self.receive()

    def _send(self, action: int) -> None:
        self._ale.send(np.array([action]), self._strength)
