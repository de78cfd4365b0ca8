"""POPGym's Concentration (also called Memory or Pairs) as a vector environment."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from gymnasium import spaces

from ntm_rl.envs.batched.base import BoolArray, FloatArray, IntArray
from ntm_rl.envs.batched.card_games import COLORS, DECK, RANKS, CardGame, colors_of, ranks_of

NO_CARD = -1


class Concentration(CardGame):
    """Turn over face-down cards in pairs; equal cards stay face up.

    The observation holds the kind of every card, or `kinds` for a face-down card; the action is the position of the
    card to turn. Unequal cards are shown for one step and turned face down again. A pair earns 2 / cards. An unequal
    pair, or turning a card that is already face up, ends the turn and costs 1 / steps for each of its cards. The
    episode terminates when all cards are face up, and is truncated at POPGym's limit of about 2 * cards steps.

    Args:
        num_envs: Number of sub-environments.
        decks: Number of decks of 52 cards on the table.
        kind: Maps card numbers to the kinds that are compared.
        kinds: Number of kinds.
        action_masks: Offer `action_masks()`, which allows the cards that are face down.
    """

    def __init__(
        self,
        num_envs: int,
        decks: int = 1,
        kind: Callable[[IntArray], IntArray] = colors_of,
        kinds: int = 2,
        action_masks: bool = False,
    ):
        cards = decks * DECK
        super().__init__(num_envs, spaces.MultiDiscrete([kinds + 1] * cards), cards, cards=cards)
        self.kind, self.kinds = kind, kinds
        self._steps = math.ceil(2 * cards - cards / (2 * cards - 1))
        self._reward, self._penalty = 1 / (cards // 2), -1 / self._steps
        self._table = np.zeros((num_envs, cards), dtype=np.int64)  # the kind of every card
        self._shown = np.zeros((num_envs, cards), dtype=np.int64)  # the kind of cards that stay face up, else `kinds`
        self._pairs = np.zeros(num_envs, dtype=np.int64)
        self._first = np.zeros(num_envs, dtype=np.int64)  # position of the turn's first card, or NO_CARD
        if action_masks:
            self.action_masks = self.face_down

    def face_down(self) -> BoolArray:
        """Returns the cards that are face down, `[num_envs, cards]`; the turn's first card is not."""
        masks: BoolArray = self._shown == self.kinds
        turned = np.flatnonzero(self._first != NO_CARD)
        masks[turned, self._first[turned]] = False
        return masks

    def state_bounds(self) -> dict[str, tuple[float, float]]:
        """See `BatchedEnv.state_bounds`."""
        return {
            "_time": (0, self._steps - 1),
            "_table": (0, self.kinds - 1),
            "_shown": (0, self.kinds),
            "_pairs": (0, self._cards // 2),
            "_first": (NO_CARD, self._cards - 1),
        }

    def deal(self, indices: IntArray, decks: list[IntArray]) -> IntArray:
        """See `CardGame.deal`."""
        self._table[indices] = self.kind(decks[0])
        self._shown[indices] = self.kinds
        self._pairs[indices] = 0
        self._first[indices] = NO_CARD
        return self._shown[indices]

    def play(self, actions: IntArray) -> tuple[IntArray, FloatArray, BoolArray, BoolArray]:
        """See `BatchedEnv.play`."""
        indices = self._indices
        is_second = self._first != NO_CARD
        first = np.where(is_second, self._first, actions)
        turned, before = self._table[indices, actions], self._table[indices, first]
        was_up = self._shown[indices, actions] != self.kinds
        is_pair = is_second & ~was_up & (turned == before) & (actions != first)

        observations = self._shown.copy()
        observations[indices, actions] = turned
        observations[indices, first] = before

        ends_turn = is_second | was_up
        rewards = np.where(ends_turn, self._penalty * (1 + is_second), 0)
        found = np.flatnonzero(is_pair)
        if len(found):
            rewards[found] = self._reward
            self._shown[found] = observations[found]
            self._pairs[found] += 1
        self._first = np.where(ends_turn, NO_CARD, actions)
        return observations, rewards, 2 * self._pairs == self._cards, self._time == self._steps


CONCENTRATION: dict[str, Callable[..., CardGame]] = {
    "popgym-ConcentrationEasy-v0": partial(Concentration, decks=1, kind=colors_of, kinds=COLORS),
    "popgym-ConcentrationMedium-v0": partial(Concentration, decks=2, kind=colors_of, kinds=COLORS),
    "popgym-ConcentrationHard-v0": partial(Concentration, decks=1, kind=ranks_of, kinds=RANKS),
}
