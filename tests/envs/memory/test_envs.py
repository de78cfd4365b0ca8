"""The diagnostic environments: hand-computed episodes, and agreement of single and native versions."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.memory.passive_tmaze import DOWN, LEFT, RIGHT, UP, random_return
from ntm_rl.envs.registration import DIAGNOSTIC
from ntm_rl.errors import InputError

TMAZE, CHAIN = "ntm_rl/PassiveTMaze-v0", "ntm_rl/MemoryChain-v0"
VARIANTS = [(TMAZE, {}), (TMAZE, {"length": 1}), (CHAIN, {}), (CHAIN, {"length": 1}), (CHAIN, {"length": 3, "bits": 5})]


def play(env: gym.Env, actions: list[int]) -> tuple[list[list[float]], list[float]]:
    """Plays actions to the end of the episode, which must come with the last one."""
    seen, rewards, ends = [], [], []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation.tolist())
        rewards.append(reward)
        ends.append(terminated)
        assert not truncated and info == ({"is_success": reward == 1} if terminated and env.spec.id == TMAZE else {})
    assert ends == [False] * (len(actions) - 1) + [True]
    return seen, rewards


def tmaze(goal: int, length: int = 3) -> gym.Env:
    """Returns a T-Maze of the given length whose episode begins with the given goal."""
    env = gym.make(TMAZE, length=length, render_mode="ansi")
    seeds = (seed for seed in range(100) if env.reset(seed=seed)[0][2] == goal)
    first, _ = env.reset(seed=next(seeds))
    assert first.tolist() == [1, 0, goal]
    return env


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS)
def test_gymnasium_and_sb3_find_nothing_wrong(env_id, kwargs):
    env = gym.make(env_id, render_mode="ansi", **kwargs)
    check_env(env.unwrapped)
    check_env_for_sb3(env)


@pytest.mark.parametrize(("goal", "turn"), [(1, UP), (-1, DOWN)])
def test_walking_right_and_turning_to_the_goal_returns_one(goal, turn):
    seen, rewards = play(tmaze(goal), [RIGHT, RIGHT, RIGHT, turn])
    assert seen == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, goal]]
    assert rewards == [0, 0, 0, 1]


def test_a_wrong_turn_or_none_has_reward_0():
    on_the_way = [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert play(tmaze(1), [RIGHT, RIGHT, RIGHT, DOWN]) == ([*on_the_way, [0, 1, -1]], [0, 0, 0, 0])
    assert play(tmaze(1), [RIGHT, RIGHT, RIGHT, RIGHT]) == ([*on_the_way, [0, 1, 0]], [0, 0, 0, 0])


def test_lagging_steps_are_penalised_and_the_goal_is_shown_once():
    third = pytest.approx(-1 / 3)
    seen, rewards = play(tmaze(1), [RIGHT, LEFT, UP, UP])
    assert seen == [[1, 0, 0]] * 4  # back at the beginning it is silent
    assert rewards == [0, third, third, 0]
    assert play(tmaze(-1), [UP, DOWN, LEFT, RIGHT])[1] == [third, third, third, 0]  # -1 in all, the least


def test_the_maze_is_rendered_as_text():
    env = tmaze(-1)
    assert env.render() == "   .\n@...\n   G\n"
    play(env, [RIGHT, RIGHT, RIGHT, UP])
    assert env.render() == "   @\n....\n   G\n"


@pytest.mark.parametrize("length", [1, 2, 20])
def test_random_actions_have_the_documented_return(length):
    rng = np.random.default_rng(0)
    envs = gym.make_vec(TMAZE, 20_000, length=length)
    envs.reset(seed=0)
    total = sum(envs.step(rng.integers(4, size=20_000))[1].mean() for _ in range(length + 1))
    assert total == pytest.approx(random_return(length), abs=0.01)
    assert random_return(20) == pytest.approx(-0.9833, abs=1e-4)
    assert random_return(1) == pytest.approx(-0.6875)  # by hand: -1 * 3/4 and 1 * 1/4 * 1/4


def test_the_best_agent_without_memory_returns_a_half():
    envs = gym.make_vec(TMAZE, 10_000, length=2)
    envs.reset(seed=0)
    total = sum(envs.step(np.full(10_000, action))[1].mean() for action in (RIGHT, RIGHT, UP))
    assert total == pytest.approx(0.5, abs=0.02)


def test_the_chain_shows_context_then_time_then_the_query_as_bsuite_does():
    env = gym.make(CHAIN, length=4, bits=3)
    for seed in range(30):
        first, _ = env.reset(seed=seed)
        context = first[2:]
        assert first[:2].tolist() == [1, 0] and set(context.tolist()) <= {-1, 1}
        seen = [env.step(0)[0].tolist() for _ in range(4)]
        query = int(seen[3][1])
        assert seen == [[1, 0, *context], [0.75, 0, 0, 0, 0], [0.5, 0, 0, 0, 0], [0.25, query, 0, 0, 0]]
        last, reward, terminated, *_ = env.step(int(context[query] > 0))
        assert (last.tolist(), reward, terminated) == ([0] * 5, 1, True)


def test_a_wrong_bit_costs_one_and_every_bit_is_asked_for():
    env, queries = gym.make(CHAIN, length=2, bits=3), set()
    for seed in range(30):
        first, _ = env.reset(seed=seed)
        env.step(0)
        query = int(env.step(0)[0][1])
        queries.add(query)
        assert env.step(int(first[2 + query] < 0))[1:3] == (-1, True)
    assert queries == {0, 1, 2}


def test_random_answers_return_0_and_right_ones_1():
    rng = np.random.default_rng(0)
    envs = gym.make_vec(CHAIN, 10_000, length=3)
    context = envs.reset(seed=0)[0][:, 2]
    for actions, expected, tolerance in ((rng.integers(2, size=10_000), 0, 0.05), (context > 0, 1, 0)):
        context = envs.reset(seed=0)[0][:, 2]
        rewards = [envs.step(np.asarray(actions, dtype=np.int64))[1] for _ in range(4)]
        assert np.mean(np.sum(rewards, axis=0)) == pytest.approx(expected, abs=tolerance)


def test_the_chain_is_rendered_as_text():
    env = gym.make(CHAIN, length=2, render_mode="ansi")
    sign = "+" if env.reset(seed=0)[0][2] > 0 else "-"
    texts = [env.render(), *((env.step(0), env.render())[1] for _ in range(3))]
    assert texts == [
        f"time left 1.00  context {sign}  query none\n",
        f"time left 1.00  context {sign}  query none\n",
        "time left 0.50  context .  query 0\n",
        "time left 0.00  context .  query none\n",
    ]


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS)
def test_the_native_vector_environment_agrees_with_single_ones_step_by_step(env_id, kwargs):
    singles = SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * 5, autoreset_mode=AutoresetMode.SAME_STEP)
    native = gym.make_vec(env_id, 5, render_mode="ansi", **kwargs)
    assert native.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert native.observation_space == singles.observation_space
    assert native.action_space == singles.action_space
    theirs, ours = singles.reset(seed=7), native.reset(seed=7)
    np.testing.assert_array_equal(ours[0], theirs[0])
    rng, ends, scored = np.random.default_rng(0), 0, set()
    for _ in range(300):
        actions = np.where(rng.random(5) < 0.9, 0, rng.integers(native.single_action_space.n, size=5))
        theirs, ours = singles.step(actions), native.step(actions)
        assert ours[0].dtype == np.float32 and native.observation_space.contains(ours[0])
        for mine, other in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        scored |= set(ours[1].tolist())
        if ours[2].any():
            ends += ours[2].sum()
            final = np.stack([each for each in theirs[-1]["final_obs"][ours[2]]])
            np.testing.assert_array_equal(ours[-1]["final_obs"][ours[2]], final)
    assert ends > 50 and len(scored) >= 2
    assert len(native.render()) == 5


def test_single_sub_environments_can_be_reset_and_a_seed_determines_the_goal():
    envs = gym.make_vec(TMAZE, 3, length=4)
    first = [envs.reset(seed=seed)[0][:, 2].tolist() for seed in (1, 1, *range(2, 9))]
    assert first[0] == first[1] and len({tuple(each) for each in first}) > 3
    before = envs.step(np.zeros(3, dtype=np.int64))[0]
    after, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
    assert after[1, 2] != 0


@pytest.mark.parametrize("env_id", [TMAZE, CHAIN])
@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_make_vec_env_passes_the_arguments(env_id, vectorization):
    venv = make_vec_env(EnvSettings(env_id, kwargs={"length": 2}, vectorization=vectorization), 4, 0)
    venv.reset()
    lengths = [
        [info["episode"]["l"] for info in venv.step(np.zeros(4, dtype=np.int64))[3] if "episode" in info]
        for _ in range(3)
    ]
    assert lengths == [[], [], [3] * 4]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        (TMAZE, {"length": 0}, "length = 0: must be an integer of at least 1"),
        (TMAZE, {"length": 2.5}, r"length = 2\.5: must be an integer"),
        (CHAIN, {"bits": 0}, "bits = 0: must be an integer of at least 1"),
        (CHAIN, {"lenght": 3}, "lenght"),
    ],
)
@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_wrong_arguments_are_refused_in_one_line(env_id, kwargs, message, vectorization):
    with pytest.raises(InputError, match=rf"env.kwargs = .*{message}"):
        make_vec_env(EnvSettings(env_id, kwargs=kwargs, vectorization=vectorization), 2, 0)


@pytest.mark.parametrize("env_id", [f"ntm_rl/{name}" for name in DIAGNOSTIC])
def test_invalid_actions_and_render_modes_are_refused(env_id):
    env = gym.make(env_id)
    env.reset(seed=0)
    with pytest.raises(InputError, match=r"action = 4: must be in Discrete"):
        env.step(4)
    with pytest.raises(InputError, match="render_mode = 'human': must be one of rgb_array, ansi, or None"):
        gym.make_vec(env_id, 2, render_mode="human")


def test_the_maze_is_rendered_as_an_image_of_constant_size():
    env = gym.make(TMAZE, length=3, render_mode="rgb_array")
    goals = set()
    for seed in range(8):
        up = env.reset(seed=seed)[0][2] > 0
        picture = env.render()
        assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
        assert picture[24, 8].tolist() == [250, 190, 40]  # the agent, on the left
        assert picture[8 if up else 40, 56].tolist() == [60, 160, 60]
        goals.add(bool(up))
    assert goals == {True, False}
    assert gym.make(TMAZE, length=1500, render_mode="rgb_array").unwrapped._envs.render_image(0).shape == (48, 1501, 3)


def test_the_chain_is_rendered_as_an_image():
    env = gym.make(CHAIN, length=2, bits=2, render_mode="rgb_array")
    bits = env.reset(seed=0)[0][2:]
    shown = [env.render()[24, 8 + 16 * bit].tolist() for bit in range(2)]
    assert shown == [[255, 255, 255] if bit > 0 else [40, 60, 255] for bit in bits]
    env.step(0), env.step(0)  # now the query is seen
    picture = env.render()
    assert picture[24, 8].tolist() == [60, 60, 60]
    assert (picture[40] == (250, 190, 40)).all(axis=1).sum() == 16
