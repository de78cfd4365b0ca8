"""Action masks of POPGym's games: the batched twins beside the originals, and both beside the rules."""

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  (registers its ids)
import pytest

from ntm_rl.envs import EnvSettings, LegalMoves, make_vec_env
from ntm_rl.envs.batched.board_games import BOARD_GAMES, MINE, Battleship
from ntm_rl.envs.batched.concentration import CONCENTRATION
from ntm_rl.envs.native import NATIVE
from ntm_rl.envs.wrappers.action_masks import MaskFormat
from ntm_rl.envs.wrappers.legal_moves import LEGAL_MOVES
from ntm_rl.errors import InputError

COUNT = 3


def copy_episode(game, twin, index: int) -> None:
    """Puts the episode that sub-environment `index` has begun into POPGym's game."""
    game.reset(seed=0)
    if isinstance(twin, Battleship):
        game.board = twin._board[index].reshape(game.board.shape).copy()
    elif hasattr(twin, "_neighbors"):
        game.hidden_grid[...] = twin._board[index].reshape(game.hidden_grid.shape)
        game.neighbor_grid[...] = twin._neighbors[index].reshape(game.neighbor_grid.shape)
    else:
        kinds = list(game.deck_idx_type)
        order = []
        for kind in twin._table[index]:  # any cards of these kinds
            order.append(kinds.index(kind))
            kinds[order[-1]] = None
        game.deck.idx = np.array(order)


def test_the_table_names_the_games_with_masks():
    assert set(LEGAL_MOVES) == {*BOARD_GAMES, *CONCENTRATION}


@pytest.mark.parametrize("env_id", [each for each in LEGAL_MOVES if "Easy" in each])
def test_twins_have_the_masks_observations_and_rewards_of_the_originals(env_id):
    rng = np.random.default_rng(0)
    twin = NATIVE[env_id](COUNT, action_masks=True)
    singles = [LegalMoves(gym.make(env_id, disable_env_checker=True)) for _ in range(COUNT)]
    assert twin.single_action_space == singles[0].action_space
    twin.reset(seed=1)
    for index, single in enumerate(singles):
        single.reset(seed=0)
        copy_episode(single.unwrapped, twin, index)
    ended = 0
    for step in range(300):
        masks = twin.action_masks()
        np.testing.assert_array_equal(masks, [single.action_masks() for single in singles], err_msg=str(step))
        actions = MaskFormat(twin.single_action_space).sample(masks, rng)
        if step % 3 == 0:  # excluded actions are possible, and cost what POPGym says
            actions[0] = rng.integers(twin.single_action_space.n)
        seen, rewards, terminated, truncated, info = twin.step(actions)
        for index, single in enumerate(singles):
            observation, reward, *ends, _ = single.step(actions[index])
            assert rewards[index] == pytest.approx(reward, abs=1e-12)
            assert [terminated[index], truncated[index]] == ends
            np.testing.assert_array_equal((info["final_obs"] if any(ends) else seen)[index], observation)
            if any(ends):
                ended += 1
                single.reset(seed=0)
                copy_episode(single.unwrapped, twin, index)
    assert ended > COUNT


def test_a_hand_played_game_of_each_kind():
    ships, mines, cards = (
        NATIVE[f"popgym-{name}Easy-v0"](1, action_masks=True) for name in ("Battleship", "MineSweeper", "Concentration")
    )
    for game in (ships, mines, cards):
        game.reset(seed=0)
        assert game.action_masks().all()
    ships.step(np.array([9]))  # row 1, column 1 of 8 x 8
    assert np.flatnonzero(~ships.action_masks()[0]).tolist() == [9]
    clear = np.flatnonzero(mines._board[0] != MINE)[:2]
    for cell in clear:
        mines.step(np.array([cell]))
    assert np.flatnonzero(~mines.action_masks()[0]).tolist() == clear.tolist()
    (first, *_), (other, *_) = (np.flatnonzero(cards._table[0] == kind) for kind in (0, 1))
    second = np.flatnonzero(cards._table[0] == 0)[1]
    cards.step(np.array([first]))
    assert np.flatnonzero(~cards.action_masks()[0]).tolist() == [first]
    cards.step(np.array([other]))  # no pair: both are turned face down
    assert cards.action_masks().all()
    for card in (first, second):
        cards.step(np.array([card]))
    assert np.flatnonzero(~cards.action_masks()[0]).tolist() == sorted([first, second])


@pytest.mark.parametrize("env_id", [each for each in LEGAL_MOVES if "Easy" in each])
def test_the_published_task_has_no_masks(env_id):
    original = gym.make(env_id, disable_env_checker=True)
    for vectorization in ("native", "sync"):
        for use in ("auto", False):
            env = make_vec_env(EnvSettings(env_id, action_masks=use, vectorization=vectorization), 2, 0)
            assert not env.has_attr("action_masks") and env.action_space == original.action_space
        env = make_vec_env(EnvSettings(env_id, action_masks=True, vectorization=vectorization), 2, 0)
        assert env.has_attr("action_masks") and isinstance(env.action_space, gym.spaces.Discrete)


def test_masks_survive_a_saved_state_and_states_without_them_are_valid():
    settings = EnvSettings("popgym-BattleshipEasy-v0", action_masks=True, previous_action=True)
    env, other = make_vec_env(settings, 2, 0), make_vec_env(settings, 2, 1)
    for each in (env, other):
        each.reset()
    for cell in range(5):
        env.step(np.array([cell, 63 - cell]))
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other.env_method("action_masks"), env.env_method("action_masks"))
    assert np.count_nonzero(~np.stack(other.env_method("action_masks"))) == 10


def test_other_environments_get_no_masks_from_the_wrapper():
    with pytest.raises(InputError, match=r"LegalMoves: not supported for 'CartPole-v1'; valid are popgym-MineSweeper"):
        LegalMoves(gym.make("CartPole-v1"))
