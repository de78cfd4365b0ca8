"""Endless T-Maze and Color-Cubes beside hand-computed episodes, and single and batched versions together."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.memory.color_cubes import DIFFICULTIES, ColorCubesVectorEnv
from ntm_rl.envs.memory.endless_tmaze import FORWARD, LEFT, RIGHT, EndlessTMazeVectorEnv, random_return
from ntm_rl.errors import InputError

MAZE, CUBES = "ntm_rl/EndlessTMaze-v0", "ntm_rl/ColorCubes-v0"
VARIANTS = [
    (MAZE, {}),
    (MAZE, {"length": 1, "corridors": 1}),
    (MAZE, {"length": 4, "corridors": 2, "uniform": True}),
    *((CUBES, {"difficulty": difficulty}) for difficulty in DIFFICULTIES),
]


def maze(turns: list[int], lengths: list[int] | None = None, **kwargs) -> EndlessTMazeVectorEnv:
    """Returns a maze that has begun an episode with these turns and lengths."""
    envs = EndlessTMazeVectorEnv(1, corridors=len(turns), **kwargs)
    envs.reset(seed=0)
    envs._turns[:] = turns
    envs._lengths[:] = envs.length if lengths is None else lengths
    return envs


def cubes(agent: int, places: list[int], target: int = 0, difficulty: str = "medium") -> ColorCubesVectorEnv:
    """Returns a grid that has begun an episode with these cells, without random teleports for a while."""
    envs = ColorCubesVectorEnv(1, difficulty=difficulty)
    envs.reset(seed=0)
    envs._agent[:], envs._cubes[:], envs._target[:] = agent, places, target
    envs._until_teleport[:] = envs.longest
    return envs


def good_actions(envs, rng: np.random.Generator) -> np.ndarray:
    """Returns mostly the actions of a player who knows the state."""
    if isinstance(envs, EndlessTMazeVectorEnv):
        corridor = envs._indices, envs._passed
        best = np.where(envs._position == envs._lengths[corridor], envs._turns[corridor], FORWARD)
    else:
        target = envs._places[envs._cubes[envs._indices, envs._target]]
        down, right = (target - envs._places[envs._agent]).T
        best = np.where(down > 0, 3, np.where(down < 0, 1, np.where(right > 0, 0, 2)))
    guesses = rng.integers(envs.single_action_space.n, size=envs.num_envs)
    return np.where(rng.random(envs.num_envs) < 0.8, best, guesses)


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS)
def test_gymnasium_and_sb3_find_nothing_wrong(env_id, kwargs):
    env = gym.make(env_id, render_mode="ansi", **kwargs)
    check_env(env.unwrapped)
    check_env_for_sb3(env)


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS)
def test_the_batched_environment_agrees_with_single_ones_step_by_step(env_id, kwargs):
    singles = SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * 5, autoreset_mode=AutoresetMode.SAME_STEP)
    batched = gym.make_vec(env_id, 5, render_mode="ansi", **kwargs).unwrapped
    assert batched.observation_space == singles.observation_space
    assert batched.action_space == singles.action_space
    np.testing.assert_array_equal(batched.reset(seed=7)[0], singles.reset(seed=7)[0])
    rng, outcomes = np.random.default_rng(0), []
    for _ in range(600):
        actions = good_actions(batched, rng)
        theirs, ours = singles.step(actions), batched.step(actions)
        assert ours[0].dtype == np.float32 and batched.observation_space.contains(ours[0])
        for mine, other in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        ended = ours[2] | ours[3]
        if ended.any():
            final = np.stack(list(theirs[-1]["final_obs"][ended]))
            np.testing.assert_array_equal(ours[-1]["final_obs"][ended], final)
            for part in (ours[-1]["final_info"], theirs[-1]["final_info"]):
                np.testing.assert_array_equal(part["_is_success"], ended)
            outcome = ours[-1]["final_info"]["is_success"][ended]
            np.testing.assert_array_equal(outcome, theirs[-1]["final_info"]["is_success"][ended])
            outcomes.extend(outcome.tolist())
    assert outcomes.count(True) > 10 and outcomes.count(False) > 10


@pytest.mark.parametrize("env_id", [MAZE, CUBES])
@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_trainings_learn_of_success(env_id, vectorization):
    venv = make_vec_env(EnvSettings(env_id, vectorization=vectorization), 4, 0)
    venv.reset()
    infos = [info for _ in range(150) for info in venv.step(np.full(4, 1))[3] if "episode" in info]
    assert infos and all(info["is_success"] == False for info in infos)  # noqa: E712  (a NumPy bool)


def test_a_sign_is_seen_in_the_first_cell_of_each_corridor():
    envs = maze([LEFT, RIGHT], lengths=[2, 1], length=4)
    assert envs._observe().tolist() == [[0, 1, 0]]
    actions = [LEFT, FORWARD, RIGHT, FORWARD, FORWARD, LEFT, FORWARD, RIGHT]
    steps = [envs.advance(np.array([action])) for action in actions]
    seen = [step[0][0].tolist() for step in steps]
    assert seen == [
        [0, 1, 0],  # a turn within the corridor
        [0.25, 0, 0],
        [0.25, 0, 0],
        [0.5, 0, 0],
        [0.5, 0, 0],  # forward at the junction
        [0, 0, 1],
        [0.25, 0, 0],
        [0, 0, 0],  # the end
    ]
    assert [step[1][0] for step in steps] == [-0.01, 0, -0.01, 0, -0.01, 1, 0, 1]
    assert [bool(step[2][0]) for step in steps] == [False] * 7 + [True]
    assert envs.final_infos()["is_success"].tolist() == [True]


def test_a_wrong_turn_costs_a_hundredth_and_ends_the_episode():
    envs = maze([LEFT, RIGHT], length=1)
    envs.advance(np.array([FORWARD]))
    seen, rewards, terminated, truncated = envs.advance(np.array([RIGHT]))
    assert (seen.tolist(), rewards.tolist(), terminated.tolist(), truncated.tolist()) == (
        [[1, 0, 0]],
        [-0.01],
        [True],
        [False],
    )
    assert envs.final_infos()["is_success"].tolist() == [False]


def test_an_episode_is_truncated_after_six_times_the_fewest_steps():
    envs = maze([LEFT, RIGHT, LEFT], length=2)
    ends = [envs.advance(np.array([LEFT]))[2:] for _ in range(54)]  # by hand: 6 * (2 + 1) * 3
    assert [bool(truncated[0]) for _, truncated in ends] == [False] * 53 + [True]
    assert not any(terminated[0] for terminated, _ in ends)


def test_lengths_of_the_uniform_maze_are_drawn_for_each_corridor():
    envs = EndlessTMazeVectorEnv(300, length=3, corridors=2, uniform=True)
    envs.reset(seed=0)
    pairs = {tuple(pair) for pair in envs._lengths.tolist()}
    assert pairs == {(first, second) for first in (1, 2, 3) for second in (1, 2, 3)}
    assert (EndlessTMazeVectorEnv(2, length=3)._lengths == 3).all()


def mean_return(envs, policy) -> float:
    """Returns the mean return of the first episode of each sub-environment."""
    envs.reset(seed=0)
    returns, is_live = np.zeros(envs.num_envs), np.ones(envs.num_envs, dtype=np.bool_)
    while is_live.any():
        _, rewards, terminated, truncated, _ = envs.step(policy(envs))
        returns += rewards * is_live
        is_live &= ~(terminated | truncated)
    return returns.mean()


def random_policy(seed: int = 0):
    rng = np.random.default_rng(seed)
    return lambda envs: rng.integers(envs.single_action_space.n, size=envs.num_envs)


@pytest.mark.parametrize(("length", "corridors", "uniform"), [(1, 1, False), (5, 3, False), (5, 5, True)])
def test_random_walks_in_the_maze_return_what_the_docstring_says(length, corridors, uniform):
    envs = EndlessTMazeVectorEnv(8000, length=length, corridors=corridors, uniform=uniform)
    derived = random_return((1 + length) / 2 if uniform else length, corridors)
    assert mean_return(envs, random_policy()) == pytest.approx(derived, abs=0.04)  # three deviations and the step limit
    assert random_return(5, 3) == pytest.approx(0.6825)


def test_walks_in_the_maze_without_memory_return_what_the_docstring_says():
    def always_left(envs):
        return np.where(envs._position == envs.length, LEFT, FORWARD)

    envs = EndlessTMazeVectorEnv(8000, length=2, corridors=3)
    assert mean_return(envs, always_left) == pytest.approx(0.99 * (1 - 2**-3), abs=0.03)


def test_a_player_who_knows_the_state_reaches_the_optimum():
    def best(envs):
        always = type("Always", (), {"random": lambda self, size: np.zeros(size), "integers": np.random.randint})()
        return good_actions(envs, always)

    assert mean_return(EndlessTMazeVectorEnv(50, length=4, corridors=5, uniform=True), best) == 5
    for difficulty in DIFFICULTIES:
        assert mean_return(ColorCubesVectorEnv(200, difficulty=difficulty), best) == pytest.approx(1)


def test_random_walks_among_cubes_return_what_the_docstring_says():
    trivial = ColorCubesVectorEnv(8000, difficulty="trivial")
    assert mean_return(trivial, random_policy()) == pytest.approx(hitting_probability(size=5, steps=8), abs=0.015)
    assert hitting_probability(size=5, steps=8) == pytest.approx(0.1775, abs=5e-5)
    assert mean_return(ColorCubesVectorEnv(4000), random_policy()) == pytest.approx(0.031, abs=0.004)


def hitting_probability(size: int, steps: int) -> float:
    """Returns how likely a random walk from one cell of a grid is to reach another one, both uniform, in some steps."""
    moves = np.zeros((size, size, size, size))
    for row in range(size):
        for column in range(size):
            for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                moves[row, column, np.clip(row + down, 0, size - 1), np.clip(column + right, 0, size - 1)] += 0.25
    moves = moves.reshape(size**2, size**2)
    reached = []
    for target in range(size**2):
        absorbing = moves.copy()
        absorbing[target] = np.eye(size**2)[target]
        reached.append(np.delete(np.linalg.matrix_power(absorbing, steps)[:, target], target).mean())
    return float(np.mean(reached))


def test_the_state_is_shown_at_the_beginning_and_hidden_afterwards():
    envs = cubes(agent=7, places=[4, 0, 24], target=2, difficulty="trivial")
    first = envs._observe(np.array([True]), True)[0]
    assert first[:3].tolist() == [1, 0.25, 0.5]  # row 1 and column 2 of 5
    assert first[3:6].tolist() == [0, 0, 1]
    rows = first[6:].reshape(3, 5).tolist()  # row by row of the grid: cells 0, 4 and 24 with colours 1, 0 and 2
    assert rows == [[0, 0, 0, 1, 0], [0, 1, 1, 0, 0], [1, 1, 0, 0, 1]]
    seen, rewards, *_ = envs.advance(np.array([3]))
    assert seen[0, :3].tolist() == [0, 0.5, 0.5] and not seen[0, 3:].any() and rewards.tolist() == [0]


def test_moves_lead_right_up_left_and_down_and_stop_at_the_walls():
    envs = cubes(agent=0, places=[40, 41, 42, 43, 44])
    cells = [(envs.advance(np.array([action])), int(envs._agent[0]))[1] for action in (1, 2, 0, 3, 2, 1)]
    assert cells == [0, 0, 1, 8, 7, 0]


def test_a_reached_cube_moves_and_another_becomes_the_target():
    targets = set()
    for seed in range(30):
        envs = cubes(agent=0, places=[1, 10, 20, 30, 40])
        envs.generators = [np.random.default_rng(seed)]
        seen, rewards, terminated, _ = envs.advance(np.array([0]))
        assert rewards.tolist() == [1 / 5] and not terminated[0] and seen[0, 0] == 1
        assert envs._cubes[0, 1:].tolist() == [10, 20, 30, 40] and envs._cubes[0, 0] not in (1, 10, 20, 30, 40)
        targets.add(int(envs._target[0]))
        assert seen[0, 3:8].tolist() == np.eye(5)[envs._target[0]].tolist()
    assert targets == {1, 2, 3, 4}


def test_a_teleport_moves_one_other_cube_and_shows_the_state():
    moved = set()
    for seed in range(30):
        envs = cubes(agent=0, places=[24, 10, 20, 30, 40])
        envs.generators = [np.random.default_rng(seed)]
        envs._until_teleport[:] = 2
        assert envs.advance(np.array([0]))[0][0, 0] == 0
        seen, *_ = envs.advance(np.array([0]))
        changed = np.flatnonzero(envs._cubes[0] != [24, 10, 20, 30, 40])
        assert seen[0, 0] == 1 and len(changed) == 1 and envs._target[0] == 0
        assert len({*envs._cubes[0].tolist(), 2}) == 6 and envs._until_teleport[0] > 0
        moved.add(int(changed[0]))
    assert moved == {1, 2, 3, 4}


def test_teleports_come_in_a_tenth_of_the_steps_and_never_in_the_trivial_grid():
    envs = ColorCubesVectorEnv(2000)
    envs.reset(seed=0)
    rng, shown = np.random.default_rng(0), []
    for _ in range(11):  # the target is hardly ever reached
        seen, rewards, *_ = envs.step(rng.integers(4, size=2000))
        shown.append(seen[rewards == 0, 0].mean())
    assert np.mean(shown) == pytest.approx(0.1, abs=0.01)
    trivial = cubes(agent=0, places=[24, 12, 18], difficulty="trivial")
    assert not any(trivial.advance(np.array([1]))[0][0, 0] for _ in range(7))


def test_extreme_hides_colours_after_the_first_observation():
    envs = ColorCubesVectorEnv(100, difficulty="extreme")
    first, _ = envs.reset(seed=0)
    assert (first[:, 8:].reshape(100, 5, 7)[:, :, 2:].sum(axis=2) == 1).all()
    seen, _, terminated, *_ = envs.step(np.zeros(100, dtype=np.int64))
    shown = (seen[:, 0] == 1) & ~terminated
    assert shown.any() and (seen[shown, 3:8].sum(axis=1) == 1).all()  # the target's colour is shown
    assert not seen[shown, 8:].reshape(-1, 5, 7)[:, :, 2:].any()
    places = np.sort(envs._cubes[shown], axis=1)
    np.testing.assert_allclose(seen[shown, 8:].reshape(-1, 5, 7)[:, :, 0] * 6, places // 7, atol=1e-5)


def test_an_episode_among_cubes_ends_when_a_target_is_not_reached_in_time():
    envs = cubes(agent=0, places=[48, 10, 20, 30, 40])
    ends = [bool(envs.advance(np.array([1]))[2][0]) for _ in range(12)]
    assert ends == [False] * 11 + [True]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (MAZE, {"length": 0}, "length = 0: must be an integer of at least 1"),
        (MAZE, {"corridors": 0}, "corridors = 0: must be an integer of at least 1"),
        (MAZE, {"uniform": 2}, "uniform = 2: must be"),
        (CUBES, {"difficulty": "hard"}, "difficulty = 'hard': must be one of trivial, medium, extreme"),
    ],
)
@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_wrong_arguments_are_refused_in_one_line(env_id, kwargs, message, vectorization):
    with pytest.raises(InputError, match=rf"env.kwargs = .*{message}"):
        make_vec_env(EnvSettings(env_id, kwargs=kwargs, vectorization=vectorization), 2, 0)


def test_the_maze_is_written_out_and_drawn():
    envs = maze([RIGHT, LEFT], lengths=[2, 1], length=3, render_mode="ansi")
    envs.advance(np.array([FORWARD]))
    assert envs.render() == ("passed 0 of 2\n  .\n.@.\n  G\n",)
    envs.advance(np.array([FORWARD])), envs.advance(np.array([RIGHT]))
    assert envs.render() == ("passed 1 of 2\n G\n@.\n .\n",)
    image = envs.render_image(0)
    assert image.shape == (64, 64, 3)
    green, yellow = [60, 160, 60], [250, 190, 40]
    assert [image[24, 8].tolist(), image[8, 24].tolist(), image[56, 8].tolist()] == [yellow, green, green]


def test_the_cubes_are_written_out_and_drawn():
    envs = cubes(agent=7, places=[4, 0, 24], target=2, difficulty="trivial")
    assert envs.render_text(0) == "target C, reached 0\nB...A\n..@..\n.....\n.....\n....C\n"
    image = envs.render_image(0)
    assert image.shape == (96, 80, 3)
    assert image[8, 8].tolist() == image[88, 72].tolist() == [60, 90, 255]
    assert image[40, 40].tolist() == [250, 190, 40]
