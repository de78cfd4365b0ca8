"""The batched board games, bandits and pendulums beside POPGym's own, with the same draws and actions."""

from collections import Counter

import gymnasium as gym
import numpy as np
import popgym  # noqa: F401  (registers its ids)
import pytest

from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.batched.bandit import BANDIT
from ntm_rl.envs.batched.board_games import BOARD_GAMES, MINE, SHIPS, Battleship, MineSweeper
from ntm_rl.envs.batched.pendulum import PENDULUM
from ntm_rl.errors import InputError

COUNT = 4
TWINS = {**BOARD_GAMES, **BANDIT, **PENDULUM}


class Draws:
    """Stands in for POPGym's random generator: returns numbers that the twin has drawn."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self, size=None, dtype=np.float64):
        return self.numbers.pop(0)

    uniform = normal = choice = lambda self, *args, **kwargs: self.numbers.pop(0)


class Recorder:
    """Records what a generator draws, and draws it."""

    def __init__(self, generator):
        self.generator, self.drawn = generator, []

    def __getattr__(self, name):
        def draw(*args, **kwargs):
            self.drawn.append(getattr(self.generator, name)(*args, **kwargs))
            return self.drawn[-1]

        return draw


def record(twin) -> Recorder:
    """Replaces a twin's generator by one that records."""
    twin._np_random = Recorder(twin.np_random)
    return twin._np_random


def begin(single: gym.Env, twin, index: int, noise: np.ndarray | None) -> object:
    """Resets POPGym's environment onto the episode that sub-environment `index` has begun."""
    if isinstance(twin, Battleship):
        first = single.reset(seed=0)[0]
        single.board = twin._board[index].reshape(single.board.shape).copy()
        return first
    if isinstance(twin, MineSweeper):
        single.np_random = Draws(np.flatnonzero(twin._board[index] == MINE))
    elif hasattr(twin, "_payouts"):
        single.np_random = Draws(twin._payouts[index].copy())
    else:
        state = np.array([twin._angle[index], twin._speed[index]])
        single.np_random = Draws(state, *([] if noise is None else [noise]))
    return single.reset()[0]


def actions_for(twin, rng: np.random.Generator) -> np.ndarray:
    """Returns actions that end episodes in every way: sub-environment 0 plays well, the others at random."""
    actions = np.stack([twin.single_action_space.sample() for _ in range(COUNT)])
    if isinstance(twin, Battleship | MineSweeper) and rng.random() < 0.9:
        wanted = 1 if isinstance(twin, Battleship) else 0  # cells with ships; hidden cells without mines
        actions[0] = divmod(rng.choice(np.flatnonzero(twin._board[0] == wanted)), twin._size)
    if not np.issubdtype(actions.dtype, np.integer):
        actions[1] *= 3  # clipped
    return actions


def drawn_in_step(twin, recorder: Recorder) -> list[list]:
    """Returns what each sub-environment drew in a step before any restart, in the order in which POPGym draws."""
    if hasattr(twin, "_payouts"):
        return [[float(number)] for number in recorder.drawn[0]]
    noise = recorder.drawn[:1] if getattr(twin, "_noise", 0) else []
    return [[each[index] for each in noise] for index in range(COUNT)]


@pytest.mark.parametrize("env_id", TWINS)
def test_the_same_draws_and_actions_give_popgyms_observations_rewards_and_ends(env_id):
    rng = np.random.default_rng(0)
    twin = TWINS[env_id](COUNT)
    twin.single_action_space.seed(0)
    singles = [gym.make(env_id, disable_env_checker=True).unwrapped for _ in range(COUNT)]
    twin.reset(seed=5)
    recorder = record(twin)
    seen, _ = twin.reset()
    noise = recorder.drawn[-1] if getattr(twin, "_noise", 0) else None
    for index, single in enumerate(singles):
        np.testing.assert_array_equal(seen[index], begin(single, twin, index, None if noise is None else noise[index]))
    ends, scored = Counter(), set()
    for step in range(2 * singles[0].max_episode_length + 50):
        if step == 7:  # from here on the sub-environments are out of phase
            recorder.drawn.clear()
            seen, _ = twin.reset(options={"reset_mask": np.arange(COUNT) == 2})
            first = begin(singles[2], twin, 2, recorder.drawn[-1][0] if noise is not None else None)
            np.testing.assert_array_equal(seen[2], first)
        actions = actions_for(twin, rng)
        recorder.drawn.clear()
        seen, rewards, terminated, truncated, info = twin.step(actions)
        assert seen.dtype == twin.single_observation_space.dtype
        finished = iter(range(COUNT))
        for index, (single, drawn) in enumerate(zip(singles, drawn_in_step(twin, recorder), strict=True)):
            single.np_random = Draws(*drawn)
            observation, reward, *ended, _ = single.step(actions[index])
            assert rewards[index] == pytest.approx(reward, abs=1e-12) and rewards.dtype == np.float64, (step, index)
            assert [terminated[index], truncated[index]] == ended, (step, index)
            np.testing.assert_array_equal((info["final_obs"] if any(ended) else seen)[index], observation)
            scored.add(round(float(reward), 9))
            if any(ended):
                ends["terminated" if ended[0] else "truncated"] += 1
                first_noise = recorder.drawn[-1][next(finished)] if noise is not None else None
                np.testing.assert_array_equal(seen[index], begin(single, twin, index, first_noise))
    if isinstance(twin, MineSweeper):
        assert ends["terminated"] > 20 and ends["truncated"] >= 1 and len(scored) == 3
    elif isinstance(twin, Battleship):
        assert ends["terminated"] >= 5 and ends["truncated"] >= 3 and len(scored) == 2
    else:
        assert ends["truncated"] >= 2 * COUNT and not ends["terminated"] and len(scored) >= 2


@pytest.mark.parametrize("env_id", TWINS)
def test_spaces_are_popgyms_and_observations_lie_in_them(env_id):
    twin, single = TWINS[env_id](3), gym.make(env_id, disable_env_checker=True)
    assert twin.single_observation_space == single.observation_space
    assert twin.single_action_space == single.action_space
    assert twin.reset(seed=0)[0] in twin.observation_space
    assert twin.step(twin.action_space.sample())[0] in twin.observation_space


@pytest.mark.parametrize("env_id", TWINS)
def test_a_seed_decides_the_episodes_and_sub_environments_differ(env_id):
    plays = []
    for seed in (1, 1, 2):
        twin = TWINS[env_id](8)
        twin.action_space.seed(0)
        twin.reset(seed=seed)
        plays.append(np.stack([twin.step(twin.action_space.sample())[0] for _ in range(30)]))
    first, second, other = plays
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert len(np.unique(first.reshape(30, 8, -1), axis=1)[0]) > 1


def test_ships_lie_as_often_in_each_cell_and_beside_each_other_as_popgyms():
    twin, single = Battleship(4000, size=8), gym.make("popgym-BattleshipEasy-v0", disable_env_checker=True).unwrapped
    twin.reset(seed=0)
    single.reset(seed=0)
    boards = [twin._board.reshape(-1, 8, 8), np.stack([(single.reset(), single.board)[1] for _ in range(4000)])]
    assert (boards[0].sum(axis=(1, 2)) == sum(SHIPS)).all()
    ours, theirs = (each.mean(axis=0) for each in boards)
    np.testing.assert_allclose(ours, theirs, atol=5 * np.sqrt(2 * 0.25 * 0.75 / 4000))
    ours, theirs = ((each[:, 1:] * each[:, :-1]).sum(axis=(1, 2)).mean() for each in boards)
    assert ours == pytest.approx(theirs, abs=0.15)  # each has a deviation of about 2 / sqrt(4000)


def test_mines_lie_anywhere_and_are_counted_in_nine_cells():
    twin = MineSweeper(3000, size=4, mines=2)
    twin.reset(seed=0)
    is_mine = twin._board == MINE
    assert (is_mine.sum(axis=1) == 2).all()
    np.testing.assert_allclose(is_mine.mean(axis=0), 2 / 16, atol=0.03)
    padded = np.pad(is_mine[0].reshape(4, 4), 1)
    expected = [[padded[row : row + 3, column : column + 3].sum() for column in range(4)] for row in range(4)]
    assert twin._neighbors[0].reshape(4, 4).tolist() == expected


def test_returns_have_popgyms_bounds():
    ships, mines = Battleship(1, size=8), MineSweeper(1)
    ships.reset(seed=0), mines.reset(seed=0)
    hits = [divmod(cell, 8) for cell in np.flatnonzero(ships._board[0])]
    assert sum(ships.step(np.array([cell]))[1][0] for cell in hits) == pytest.approx(1)
    clear = [divmod(cell, 4) for cell in np.flatnonzero(mines._board[0] != MINE)]
    assert sum(mines.step(np.array([cell]))[1][0] for cell in clear) == pytest.approx(1)


@pytest.mark.parametrize("env_id", [*BOARD_GAMES, *BANDIT])
def test_actions_that_do_not_exist_are_refused(env_id):
    twin = TWINS[env_id](2)
    twin.reset(seed=0)
    valid = twin.action_space.sample()
    for actions in (valid - 100, valid + 100, valid + 0.5, valid[:1], valid[None]):
        with pytest.raises(InputError, match=r"must be 2 (elements of MultiDiscrete|integers from 0 to)"):
            twin.step(actions)
    assert twin._time.tolist() == [0, 0]  # a refused step did not happen


def test_torques_are_clipped_and_those_that_are_no_numbers_refused():
    twin = PENDULUM["popgym-PositionOnlyPendulumEasy-v0"](2)
    first, _ = twin.reset(seed=0)
    assert first.shape == (2, 2)
    for actions in (np.zeros(2), np.full((2, 1), np.nan)):
        with pytest.raises(InputError, match=r"must be 2 elements of Box\(-2.0, 2.0, \(1,\), float32\)"):
            twin.step(actions)


@pytest.mark.parametrize("env_id", ["popgym-BattleshipEasy-v0", "popgym-NoisyPositionOnlyPendulumHard-v0"])
def test_trainings_play_the_twin_and_see_the_previous_action(env_id):
    settings = EnvSettings(env_id, previous_action=True, vectorization="native")
    venv = make_vec_env(settings, 2, seed=0)
    venv.reset()
    actions = np.stack([venv.action_space.sample() for _ in range(2)])
    seen, *_ = venv.step(actions)
    single = make_vec_env(EnvSettings(env_id, previous_action=True, vectorization="sync"), 2, seed=0)
    single.reset()
    np.testing.assert_array_equal(seen["previous_action"], single.step(actions)[0]["previous_action"])
