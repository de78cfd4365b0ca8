"""The batched card games beside POPGym's own, dealt the same cards and played with the same actions."""

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  (registers its ids)
import pytest
from gymnasium.vector import AutoresetMode

from ntm_rl.envs.card_games import CARD_GAMES, NO_ANSWER, CountRecall


def deal(env: gym.Env, decks: list[np.ndarray]) -> object:
    """Resets POPGym's `env` onto the given cards (in dealing order) and returns its first observation."""
    game = env.unwrapped
    stacks = [game.value_deck, game.query_deck] if hasattr(game, "value_deck") else [game.deck]
    waiting = [deck[::-1].copy() for deck in decks]  # POPGym deals from the end

    def unshuffled(stack, cards):
        def reset(shuffle=True, rng=None):
            type(stack).reset(stack, shuffle=False)
            stack.idx = cards

        return reset

    for stack, cards in zip(stacks, waiting, strict=True):
        stack.reset = unshuffled(stack, cards)
    return env.reset()[0]


@pytest.mark.parametrize("env_id", [name for name in CARD_GAMES if "Hard" not in name or "Repeat" in name])
def test_the_same_cards_and_actions_give_popgyms_observations_rewards_and_ends(env_id):
    rng = np.random.default_rng(0)
    batched = CARD_GAMES[env_id](3)
    shuffled = []
    script = batched.script
    batched.script = lambda decks: (shuffled.append([deck.copy() for deck in decks]), script(decks))[1]
    single = gym.make(env_id).unwrapped
    assert batched.single_action_space == single.action_space
    if not isinstance(single.observation_space, gym.spaces.Tuple):
        assert batched.single_observation_space == single.observation_space

    first, _ = batched.reset(seed=5)
    played = []
    for _ in range(2 * batched._steps):
        # Right in half of the steps: random actions alone would hardly ever be.
        answers = batched._answers[batched._copies, batched._time]
        guesses = rng.integers(batched.single_action_space.n, size=3)
        actions = np.where((rng.random(3) < 0.5) & (answers != NO_ANSWER), answers, guesses)
        played.append((actions, *batched.step(actions)))
    assert len(shuffled) == 3  # two whole episodes, and the one begun after them

    for copy in range(3):
        observation = deal(single, [deck[copy] for deck in shuffled[0]])
        np.testing.assert_array_equal(first[copy], observation)
        for step, (actions, seen, rewards, terminated, _, info) in enumerate(played):
            observation, reward, ended, cut, _ = single.step(actions[copy])
            assert rewards[copy] == pytest.approx(reward), (step, copy)
            assert (terminated[copy], False) == (ended, cut)
            last = info["final_obs"] if ended else seen
            np.testing.assert_array_equal(last[copy], observation)
            if ended:
                observation = deal(single, [deck[copy] for deck in shuffled[(step + 1) // batched._steps]])
                np.testing.assert_array_equal(seen[copy], observation)


@pytest.mark.parametrize("env_id", CARD_GAMES)
def test_perfect_play_returns_one_where_every_scored_step_can_be_known(env_id):
    game = CARD_GAMES[env_id](2)
    game.reset(seed=0)
    total = np.zeros(2)
    for step in range(game._steps):
        _, rewards, terminated, truncated, _ = game.step(game._answers[game._copies, game._time])
        total += rewards
        assert terminated.all() == (step == game._steps - 1)
        assert not truncated.any()
    if "HigherLower" not in env_id:  # there ties score nothing
        np.testing.assert_allclose(total, 1.0)


def test_a_seed_decides_the_cards_and_copies_differ():
    first, second, other = (CARD_GAMES["popgym-RepeatPreviousEasy-v0"](4) for _ in range(3))
    first.reset(seed=1), second.reset(seed=1), other.reset(seed=2)
    np.testing.assert_array_equal(first._seen, second._seen)
    assert not np.array_equal(first._seen, other._seen)
    assert not np.array_equal(first._seen[0], first._seen[1])


def test_counts_are_of_the_cards_dealt_up_to_the_query():
    game = CountRecall(1)
    dealt, queried = np.arange(52)[None], np.zeros((1, 52), dtype=np.int64)
    _, answers = game.script([dealt, queried])
    assert answers[0].tolist() == [step // 2 + 1 for step in range(51)]  # black cards are every second one


def test_games_declare_that_they_restart_within_a_step():
    assert all(game(1).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP for game in CARD_GAMES.values())
