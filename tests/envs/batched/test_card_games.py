"""The batched card games compared with POPGym's, with the same cards and actions."""

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  (registers its ids)
import pytest
from gymnasium.vector import AutoresetMode

from ntm_rl.envs.batched.card_games import NO_ANSWER, SCRIPTED_GAMES, CountRecall
from ntm_rl.envs.batched.concentration import CONCENTRATION, NO_CARD, Concentration
from ntm_rl.envs.native import NATIVE
from ntm_rl.errors import InputError

COPIES = 3
GAMES = {**SCRIPTED_GAMES, **CONCENTRATION}


def deal(game: gym.Env, decks: list[np.ndarray]) -> object:
    """Resets POPGym's `game` onto the given cards and returns its first observation."""
    stacks = [game.value_deck, game.query_deck] if hasattr(game, "value_deck") else [game.deck]
    # POPGym deals from the end; in Concentration the cards lie on the table in the order of the deck.
    waiting = decks if hasattr(game, "facedown_card") else [deck[::-1] for deck in decks]

    def unshuffled(stack, cards):
        def reset(shuffle=True, rng=None):
            type(stack).reset(stack, shuffle=False)
            stack.idx = cards.copy()

        return reset

    for stack, cards in zip(stacks, waiting, strict=True):
        stack.reset = unshuffled(stack, cards)
    return game.reset()[0]


def informed_actions(game, rng: np.random.Generator) -> np.ndarray:
    """Returns actions that are right often enough: random ones alone would hardly ever be."""
    if isinstance(game, Concentration):
        return np.array([turn_card(game, copy, rng) for copy in range(COPIES)])
    answers = game._answers[game._indices, game._time]
    guesses = rng.integers(game.single_action_space.n, size=COPIES)
    return np.where((rng.random(COPIES) < 0.5) & (answers != NO_ANSWER), answers, guesses)


def turn_card(game: Concentration, copy: int, rng: np.random.Generator) -> int:
    """Returns the next card of a pair in copy 0, so that it finds all, and rarely in the last."""
    if rng.random() < [0, 0.05, 0.8][copy]:
        return rng.integers(4)  # so few that the same card, and cards already face up, are often turned
    down = game._shown[copy] == game.kinds
    first = game._first[copy]
    if first != NO_CARD:
        down &= game._table[copy] == game._table[copy, first]
        down[first] = False
    return rng.choice(np.flatnonzero(down))


@pytest.mark.parametrize("env_id", GAMES)
def test_the_same_cards_and_actions_give_popgyms_results(env_id):
    rng = np.random.default_rng(0)
    batched = GAMES[env_id](COPIES)
    singles = [gym.make(env_id, disable_env_checker=True).unwrapped for _ in range(COPIES)]
    waiting = [[] for _ in range(COPIES)]
    deal_batched = batched.deal

    def watched_deal(copies, decks):
        for row, copy in enumerate(copies):
            waiting[copy].append([deck[row].copy() for deck in decks])
        return deal_batched(copies, decks)

    batched.deal = watched_deal
    seen, _ = batched.reset(seed=5)
    for copy in range(COPIES):
        np.testing.assert_array_equal(seen[copy], deal(singles[copy], waiting[copy].pop()))
    scored, ends = set(), 0
    for step in range(2 * batched._steps + 20):
        if step == 7:  # from here on the copies are out of phase
            before = seen
            seen, _ = batched.reset(options={"reset_mask": np.array([False, True, False])})
            np.testing.assert_array_equal(seen[[0, 2]], before[[0, 2]])
            np.testing.assert_array_equal(seen[1], deal(singles[1], waiting[1].pop()))
        actions = informed_actions(batched, rng)
        seen, rewards, terminated, truncated, info = batched.step(actions)
        for copy in range(COPIES):
            observation, reward, *ended, _ = singles[copy].step(actions[copy])
            assert rewards[copy] == pytest.approx(reward), (step, copy)
            assert [terminated[copy], truncated[copy]] == ended, (step, copy)
            last = info["final_obs"] if any(ended) else seen
            np.testing.assert_array_equal(last[copy], observation)
            scored.add(round(float(reward), 6))
            if any(ended):
                ends += 1
                np.testing.assert_array_equal(seen[copy], deal(singles[copy], waiting[copy].pop()))
    assert ends >= 2 * COPIES
    # Right, wrong and unscored; Concentration: a pair, two wrong cards, one wrong card, the first card of a turn.
    assert len(scored) == {"RepeatFirst": 2, "CountRecall": 2, "Concentration": 4}.get(_name(env_id), 3)
    assert not any(waiting)


def _name(env_id: str) -> str:
    return env_id.removeprefix("popgym-").split("-")[0].removesuffix("Easy").removesuffix("Medium").removesuffix("Hard")


@pytest.mark.parametrize("env_id", SCRIPTED_GAMES)
def test_perfect_play_returns_one_where_every_scored_step_can_be_known(env_id):
    game = SCRIPTED_GAMES[env_id](2)
    game.reset(seed=0)
    total = np.zeros(2)
    for step in range(game._steps):
        answers = game._answers[game._indices, game._time]
        _, rewards, terminated, truncated, _ = game.step(np.where(answers == NO_ANSWER, 0, answers))
        total += rewards
        assert terminated.all() == (step == game._steps - 1)
        assert not truncated.any()
    if "HigherLower" not in env_id:  # there ties score nothing
        np.testing.assert_allclose(total, 1.0)


@pytest.mark.parametrize("env_id", ["popgym-RepeatPreviousEasy-v0", "popgym-ConcentrationEasy-v0"])
def test_a_seed_determines_the_cards_and_sub_environments_differ(env_id):
    plays = []
    for seed in (1, 1, 2):
        game = GAMES[env_id](4)
        game.reset(seed=seed)
        plays.append(np.stack([game.step(np.full(4, step % 4))[0] for step in range(20)]))
    first, second, other = plays
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:, 0], first[:, 1])


def test_counts_include_the_cards_dealt_up_to_the_query():
    game = CountRecall(1)
    dealt, queried = np.arange(52)[None], np.zeros((1, 52), dtype=np.int64)
    _, answers = game.script([dealt, queried])
    assert answers[0].tolist() == [step // 2 + 1 for step in range(51)]  # black cards are every second one


def test_a_pair_stays_face_up_and_every_other_turn_costs_its_cards():
    game = Concentration(1)
    game.deal(np.array([0]), [np.arange(52)[None]])  # the colours alternate: 0, 1, 0, 1, ...
    hidden, cost = 2, 1 / 104
    turns = [
        (0, {0: 0}, 0),
        (2, {0: 0, 2: 0}, 1 / 26),
        (0, {0: 0, 2: 0}, -cost),  # it is face up: the turn is over
        (1, {0: 0, 2: 0, 1: 1}, 0),
        (4, {0: 0, 2: 0, 1: 1, 4: 0}, -2 * cost),
        (3, {0: 0, 2: 0, 3: 1}, 0),
        (3, {0: 0, 2: 0, 3: 1}, -2 * cost),  # a card is no pair with itself
        (5, {0: 0, 2: 0, 5: 1}, 0),
        (2, {0: 0, 2: 0, 5: 1}, -2 * cost),
    ]
    for card, shown, expected in turns:
        seen, rewards, *_ = game.step(np.array([card]))
        assert {place: kind for place, kind in enumerate(seen[0].tolist()) if kind != hidden} == shown
        assert rewards[0] == pytest.approx(expected)


def test_concentration_terminates_with_the_last_pair_and_else_is_truncated():
    game = Concentration(2)
    game.deal(np.arange(2), [np.broadcast_to(np.arange(52), (2, 52))])
    pairs = [card for first in range(0, 52, 4) for card in (first, first + 2, first + 1, first + 3)]
    for step in range(1, 105):
        _, _, terminated, truncated, info = game.step(np.array([pairs[(step - 1) % 52], 0]))
        assert terminated.tolist() == [step == 52, False]
        assert truncated[1] == (step == 104)
        if step == 52:
            assert (info["final_obs"][0] < 2).all()


@pytest.mark.parametrize("env_id", GAMES)
def test_invalid_actions_are_refused(env_id):
    game = GAMES[env_id](2)
    game.reset(seed=0)
    last = game.single_action_space.n - 1
    game.step([0, last])
    for actions in ([0, -1], [0, last + 1], [0.0, 0.5], [0], [[0, 0]]):
        with pytest.raises(InputError, match=rf"must be 2 integers from 0 to {last}"):
            game.step(np.array(actions))
    assert game._time.tolist() == [1, 1]  # a refused step did not happen


def test_games_declare_same_step_autoreset():
    assert all(game(1).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP for game in NATIVE.values())


@pytest.mark.parametrize("env_id", GAMES)
def test_spaces_are_popgyms(env_id):
    game, single = GAMES[env_id](1), gym.make(env_id, disable_env_checker=True)
    assert game.single_action_space == single.action_space
    own = single.observation_space
    if isinstance(own, gym.spaces.Tuple):  # Autoencode's, which no policy reads as it is
        own = gym.spaces.MultiDiscrete([part.n for part in own])
    assert game.single_observation_space == own
