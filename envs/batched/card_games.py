"""POPGym's card games, all copies of a game stepped at once.

The games are those of `popgym` (Morad et al. 2023, arXiv:2303.01859) with its spaces, rewards and episode lengths.
Where a shuffled deck decides a whole episode, the game writes its script when the deck is shuffled: what is seen at
every step and which action will be right. A step is then a look-up. (In Concentration the player decides what is seen:
it has a file of its own.)
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from ntm_rl.envs.batched.base import BatchedEnv, BoolArray, FloatArray, IntArray

RANKS, SUITS, COLORS, DECK = 13, 4, 2, 52
NO_ANSWER = -1  # no action is right or wrong in this step


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
    """Copies of a card game.

    Args:
        num_envs: Copies.
        observation_space: Of one copy.
        actions: How many there are.
        cards: In a deck.
        decks: Decks of so many cards that are shuffled, each on its own, for an episode.
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
            indices: Sub-environments, `[E]`.
            decks: The shuffled decks, card numbers `[E, cards]` in the order in which they are dealt.

        Returns:
            The first observations, `[E, ...]`.
        """

    def begin(self, indices: IntArray, options: dict[str, Any]) -> IntArray:
        """See `BatchedEnv.begin`; shuffles the decks."""
        sorted_decks = np.broadcast_to(np.arange(self._cards), (len(indices), self._cards))
        return self.deal(indices, [self.np_random.permuted(sorted_decks, axis=1) for _ in range(self._decks)])


class ScriptedGame(CardGame):
    """A card game whose episodes are written down when the deck is shuffled.

    Args:
        num_envs: Copies.
        observation_space: Of one copy.
        actions: How many there are.
        steps: Length of an episode.
        reward: For a right action; a wrong one costs as much.
        cards: In a deck.
        decks: Decks that are shuffled for an episode.
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
        self._seen = np.zeros((num_envs, steps + 1, *(observation_space.shape or ())), dtype=np.int64)
        self._answers = np.zeros((num_envs, steps), dtype=np.int64)

    def state_bounds(self) -> dict[str, tuple[Any, Any]]:
        """See `BatchedEnv.state_bounds`."""
        space = self.single_observation_space
        kinds = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.array(spaces.flatdim(space))
        return {"_time": (0, self._steps - 1), "_seen": (0, kinds - 1), "_answers": (NO_ANSWER, self._cards)}

    @abstractmethod
    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """Writes episodes down.

        Args:
            decks: The shuffled decks, card numbers `[E, cards]` in the order in which they are dealt.

        Returns:
            Observations `[E, steps + 1, ...]` and the right actions `[E, steps]`, `NO_ANSWER` where there is none.
        """

    def deal(self, indices: IntArray, decks: list[IntArray]) -> IntArray:
        """See `CardGame.deal`."""
        seen, self._answers[indices] = self.script(decks)
        self._seen[indices] = seen
        return seen[:, 0]

    def play(self, actions: IntArray) -> tuple[IntArray, FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        answers = self._answers[self._indices, self._time - 1]
        rewards = np.where(actions == answers, self._reward, -self._reward)
        rewards[answers == NO_ANSWER] = 0
        observations = self._seen[self._indices, self._time]
        return observations, rewards, self._time == self._steps, np.zeros(self.num_envs, dtype=np.bool_)


class RepeatPrevious(ScriptedGame):
    """Say the suit of the card seen k cards ago, counting the one in view as the first."""

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
    """Say the suit of the first card at every step."""

    def __init__(self, num_envs: int, decks: int = 1):
        cards = decks * DECK
        super().__init__(num_envs, spaces.Discrete(SUITS), SUITS, steps=cards - 1, reward=1 / (cards - 1), cards=cards)

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        suits = suits_of(decks[0])
        return suits, np.broadcast_to(suits[:, :1], (len(suits), self._steps))


class CountRecall(ScriptedGame):
    """Say how often the queried kind of card has been dealt so far; observations are (dealt, queried)."""

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
    """Watch all cards, then say their suits in reverse order; observations are (watching, suit)."""

    def __init__(self, num_envs: int, decks: int = 1):
        cards = decks * DECK
        super().__init__(
            num_envs, spaces.MultiDiscrete([2, SUITS]), SUITS, steps=2 * cards - 1, reward=1 / cards, cards=cards
        )

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        suits = suits_of(decks[0])
        episodes, cards = suits.shape
        seen = np.zeros((episodes, self._steps + 1, 2), dtype=np.int64)
        seen[:, : cards - 1, 0] = 1  # the last card already comes with the sign to begin
        seen[:, :cards, 1] = suits
        answers = np.full((episodes, self._steps), NO_ANSWER)
        answers[:, cards - 1 :] = suits[:, ::-1]
        return seen, answers


class HigherLower(ScriptedGame):
    """Guess whether the next card ranks higher (action 0) or lower (action 1); a tie counts nothing."""

    def __init__(self, num_envs: int, decks: int = 1):
        cards = decks * DECK
        super().__init__(num_envs, spaces.Discrete(RANKS), 2, steps=cards - 1, reward=1 / cards, cards=cards)

    def script(self, decks: list[IntArray]) -> tuple[IntArray, IntArray]:
        """See `ScriptedGame.script`."""
        ranks = ranks_of(decks[0])
        now, following = ranks[:, :-1], ranks[:, 1:]
        return ranks, np.where(now == following, NO_ANSWER, (following < now).astype(np.int64))


# POPGym's ids and what plays them here.
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
