"""POPGym's card games as vector environments.

Spaces, rewards and episode lengths are those of `popgym` (Morad et al. 2023, arXiv:2303.01859). In most games the
shuffled deck determines the observations and right actions of an episode: these are computed at the reset, and a step
is a look-up. Concentration, where they depend on the actions, has its own file.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from ntm_rl.envs.batched.base import BatchedEnv, BoolArray, FloatArray, IntArray

RANKS, SUITS, COLORS, DECK = 13, 4, 2, 52
SUIT_NAMES = ("♠ spades", "♦ diamonds", "♣ clubs", "♥ hearts")  # in POPGym's order
NO_ANSWER = -1  # the reward of the step is 0 for every action


def suits_of(cards: IntArray) -> IntArray:
    """Returns the suits of card numbers."""
    return cards % SUITS


def ranks_of(cards: IntArray) -> IntArray:
    """Returns the ranks of card numbers."""
    return cards // SUITS % RANKS


def colors_of(cards: IntArray) -> IntArray:
    """Returns the colours of card numbers."""
    return cards % COLORS


class CardGame(BatchedEnv):
    """A card game.

    Args:
        num_envs: Number of sub-environments.
        observation_space: Observation space of a sub-environment.
        actions: Number of actions.
        cards: Cards in a deck.
        decks: Number of separately shuffled decks in an episode.
    """

    def __init__(
        self, num_envs: int, observation_space: spaces.Space[Any], actions: int, *, cards: int, decks: int = 1
    ):
        super().__init__(num_envs, observation_space, actions)
        self._cards, self._decks = cards, decks

    @abstractmethod
    def deal(self, indices: IntArray, decks: list[IntArray]) -> IntArray:
        """Begins episodes.

        Args:
            indices: Indices of the sub-environments, `[E]`.
            decks: The shuffled decks, card numbers `[E, cards]` in the order of dealing.

        Returns:
            The first observations, `[E, ...]`.
        """

    def begin(self, indices: IntArray, options: dict[str, Any]) -> IntArray:
        """Shuffles the decks; see `BatchedEnv.begin`."""
        sorted_decks = np.broadcast_to(np.arange(self._cards), (len(indices), self._cards))
        return self.deal(indices, [self.np_random.permuted(sorted_decks, axis=1) for _ in range(self._decks)])


class ScriptedGame(CardGame):
    """A card game whose observations and right actions do not depend on the actions taken.

    Args:
        num_envs: Number of sub-environments.
        observation_space: Observation space of a sub-environment.
        actions: Number of actions.
        steps: Length of an episode.
        reward: Reward of a right action; a wrong one gets its negative.
        cards: Cards in a deck.
        decks: Number of separately shuffled decks in an episode.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        actions: int,
        *,
        steps: int,
        reward: float,
        cards: int,
        decks: int = 1,
    ):
        super().__init__(num_envs, observation_space, actions, cards=cards, decks=decks)
        self._steps, self._reward = steps, reward
        self._script = np.zeros((num_envs, steps + 1, *(observation_space.shape or ())), dtype=np.int64)
        self._answers = np.zeros((num_envs, steps), dtype=np.int64)

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        space = self.single_observation_space
        kinds = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.array(spaces.flatdim(space))
        return {"_time": (0, self._steps - 1), "_script": (0, kinds - 1), "_answers": (NO_ANSWER, self._cards)}

    @abstractmethod
    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """Computes complete episodes.

        Args:
            decks: The shuffled decks, card numbers `[E, cards]` in the order of dealing.

        Returns:
            Observations `[E, steps + 1, ...]` and right actions `[E, steps]` or `NO_ANSWER`.
        """

    def deal(self, indices: IntArray, decks: list[IntArray]) -> IntArray:
        """See `CardGame.deal`."""
        observations, self._answers[indices] = self.script(decks)
        self._script[indices] = observations
        return observations[:, 0]

    def play(self, actions: IntArray) -> tuple[IntArray, FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        answers = self._answers[self._indices, self._time - 1]
        rewards = np.where(actions == answers, self._reward, -self._reward)
        rewards[answers == NO_ANSWER] = 0
        observations = self._script[self._indices, self._time]
        return observations, rewards, self._time == self._steps, np.zeros(self.num_envs, dtype=np.bool_)


class RepeatPrevious(ScriptedGame):
    """Name the suit of the card shown k cards ago, where the current card counts as the first."""

    observation_names = action_names = SUIT_NAMES

    def __init__(self, num_envs: int, decks: int = 1, k: int = 4):
        cards = decks * DECK
        self.k = k
        super().__init__(num_envs, spaces.Discrete(SUITS), SUITS, steps=cards - 1, reward=1 / (cards - k), cards=cards)

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        suits = suits_of(decks[0])
        answers = np.full((len(suits), self._steps), NO_ANSWER)
        answers[:, self.k - 1 :] = suits[:, : self._steps - self.k + 1]
        return suits, answers


class RepeatFirst(ScriptedGame):
    """Name the suit of the first card at every step."""

    observation_names = action_names = SUIT_NAMES

    def __init__(self, num_envs: int, decks: int = 1):
        cards = decks * DECK
        super().__init__(num_envs, spaces.Discrete(SUITS), SUITS, steps=cards - 1, reward=1 / (cards - 1), cards=cards)

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        suits = suits_of(decks[0])
        return suits, np.broadcast_to(suits[:, :1], (len(suits), self._steps))


class CountRecall(ScriptedGame):
    """Count how often the queried kind of card has been dealt; observations are (dealt, queried)."""

    observation_names = ("dealt", "queried")

    def __init__(self, num_envs: int, decks: int = 1, kind: Callable[[IntArray], IntArray] = colors_of, kinds: int = 2):
        cards = decks * DECK
        self.kind, self.kinds = kind, kinds
        super().__init__(
            num_envs,
            spaces.MultiDiscrete([kinds, kinds]),
            cards // kinds + 1,
            steps=cards - 1,
            reward=1 / (cards - 1),
            cards=cards,
            decks=2,
        )

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        dealt, queried = (self.kind(deck) for deck in decks)
        counts = (dealt[..., None] == np.arange(self.kinds)).cumsum(axis=1)  # [E, cards, kinds]
        answers = np.take_along_axis(counts, queried[..., None], axis=2)[..., 0]
        return np.stack([dealt, queried], axis=-1), answers[:, :-1]


class Autoencode(ScriptedGame):
    """Watch all cards, then name their suits in reverse order; observations are (watching, suit)."""

    observation_names, action_names = ("watching", "suit"), SUIT_NAMES

    def __init__(self, num_envs: int, decks: int = 1):
        cards = decks * DECK
        super().__init__(
            num_envs, spaces.MultiDiscrete([2, SUITS]), SUITS, steps=2 * cards - 1, reward=1 / cards, cards=cards
        )

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        suits = suits_of(decks[0])
        episodes, cards = suits.shape
        observations = np.zeros((episodes, self._steps + 1, 2), dtype=np.int64)
        observations[:, : cards - 1, 0] = 1  # the last card already signals the start of the answers
        observations[:, :cards, 1] = suits
        answers = np.full((episodes, self._steps), NO_ANSWER)
        answers[:, cards - 1 :] = suits[:, ::-1]
        return observations, answers


class HigherLower(ScriptedGame):
    """Guess whether the next card ranks higher (action 0) or lower (action 1); a tie has reward 0."""

    action_names = ("higher", "lower")

    def __init__(self, num_envs: int, decks: int = 1):
        cards = decks * DECK
        super().__init__(num_envs, spaces.Discrete(RANKS), 2, steps=cards - 1, reward=1 / cards, cards=cards)

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        ranks = ranks_of(decks[0])
        current, following = ranks[:, :-1], ranks[:, 1:]
        return ranks, np.where(current == following, NO_ANSWER, (following < current).astype(np.int64))


# POPGym's ids and the constructors of their vector environments.
SCRIPTED_GAMES: dict[str, Callable[[int], ScriptedGame]] = {
    "popgym-RepeatPreviousEasy-v0": partial(RepeatPrevious, decks=1, k=4),
    "popgym-RepeatPreviousMedium-v0": partial(RepeatPrevious, decks=2, k=32),
    "popgym-RepeatPreviousHard-v0": partial(RepeatPrevious, decks=3, k=64),
    "popgym-RepeatFirstEasy-v0": partial(RepeatFirst, decks=1),
    "popgym-RepeatFirstMedium-v0": partial(RepeatFirst, decks=8),
    "popgym-RepeatFirstHard-v0": partial(RepeatFirst, decks=16),
    "popgym-CountRecallEasy-v0": partial(CountRecall, decks=1, kind=colors_of, kinds=COLORS),
    "popgym-CountRecallMedium-v0": partial(CountRecall, decks=2, kind=suits_of, kinds=SUITS),
    "popgym-CountRecallHard-v0": partial(CountRecall, decks=4, kind=ranks_of, kinds=RANKS),
    "popgym-AutoencodeEasy-v0": partial(Autoencode, decks=1),
    "popgym-AutoencodeMedium-v0": partial(Autoencode, decks=2),
    "popgym-AutoencodeHard-v0": partial(Autoencode, decks=3),
    "popgym-HigherLowerEasy-v0": partial(HigherLower, decks=1),
    "popgym-HigherLowerMedium-v0": partial(HigherLower, decks=2),
    "popgym-HigherLowerHard-v0": partial(HigherLower, decks=3),
}
