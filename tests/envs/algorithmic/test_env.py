import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.algorithmic.env import AlgorithmicEnv, AlgorithmicVectorEnv
from ntm_rl.envs.algorithmic.registry import TASKS
from ntm_rl.envs.registration import ALGORITHMIC
from ntm_rl.errors import InputError

IDS = [f"ntm_rl/{name}" for name in ALGORITHMIC]


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_and_sb3_find_nothing_wrong(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    check_env(env.unwrapped)
    check_env_for_sb3(env)


def test_an_id_with_its_module_needs_no_import():
    code = "import gymnasium; print(gymnasium.make('ntm_rl:ntm_rl/Copy-v0').observation_space.shape)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(9,)"


@pytest.mark.parametrize("task", TASKS)
def test_the_native_vector_environment_agrees_with_single_ones_step_by_step(task):
    options = {"length": 12} if task == "dynamic_ngrams" else {}
    singles = SyncVectorEnv([lambda: AlgorithmicEnv(task, **options)] * 5, autoreset_mode=AutoresetMode.SAME_STEP)
    native = AlgorithmicVectorEnv(5, task, **options)
    assert native.observation_space == singles.observation_space
    assert native.action_space == singles.action_space
    theirs, ours = singles.reset(seed=7), native.reset(seed=7)
    native.action_space.seed(0)
    ends = 0
    for _ in range(300):
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[-1]["target"], np.array(theirs[-1]["target"]))
        assert np.array_equal(ours[-1]["mask"], theirs[-1]["mask"])
        actions = np.where(
            np.arange(5).reshape(-1, *[1] * (native.action_space.sample().ndim - 1)) < 2,
            np.asarray(ours[-1]["target"]).reshape(native.action_space.shape),
            native.action_space.sample(),
        )
        theirs, ours = singles.step(actions), native.step(actions)
        for mine, other in zip(ours[1:4], theirs[1:4], strict=True):
            assert np.allclose(mine, other)
        ended = ours[2]
        ends += ended.sum()
        if ended.any():
            final = np.stack([obs for obs in theirs[-1]["final_obs"][ended]])
            assert np.array_equal(ours[-1]["final_obs"][ended], final)
    assert ends > 15


@pytest.mark.parametrize("task", TASKS)
def test_right_answers_return_1_wrong_ones_minus_1_and_others_are_ignored(task):
    for is_right, expected in ((True, 1), (False, -1)):
        env = AlgorithmicEnv(task)
        _, info = env.reset(seed=0)
        total, ended = 0.0, False
        while not ended:
            target = info["target"] if is_right or not info["mask"] else 1 - info["target"]
            if not info["mask"]:
                target = 1 - target  # of no consequence
            action = int(target[0]) if task in ("dynamic_ngrams", "addition") else target
            _, reward, ended, truncated, info = env.step(action)
            total += reward
            assert not truncated
        assert total == pytest.approx(expected)
        assert not info["mask"]


def test_a_hand_computed_episode_of_one_vector():
    env = AlgorithmicEnv("copy", bits=4, max_length=1, render_mode="ansi")
    first, info = env.reset(seed=1)
    bits = first[:4].astype(np.int8)
    assert not info["mask"]
    second, reward, _, _, _ = env.step(np.zeros(4, dtype=np.int8))
    assert second.tolist() == [0, 0, 0, 0, 1]
    assert reward == 0
    third, reward, ended, _, info = env.step(np.zeros(4, dtype=np.int8))
    assert not third.any()
    assert (reward, ended) == (0, False)
    assert info["mask"]
    assert info["target"].tolist() == bits.tolist()
    answer = bits.copy()
    answer[0] = 1 - answer[0]  # one of four wrong
    _, reward, ended, _, info = env.step(answer)
    assert reward == pytest.approx((3 - 1) / 4)
    assert ended
    rows = env.render().split("\n")
    assert rows[0] == "inputs"
    assert rows[6] == "answers"
    assert rows[7] == "  x"
    assert [row.strip() for row in rows[8:11]] == ["#" if bit else "." for bit in bits[1:]]


def test_the_picture_shows_wrong_bits_in_red_and_keeps_its_size():
    env = AlgorithmicEnv("copy", bits=2, max_length=2, min_length=2, render_mode="rgb_array")
    _, info = env.reset(seed=0)
    sizes, ended = {env.render().shape}, False
    while not ended:
        _, _, ended, _, info = env.step(1 - info["target"])
        sizes.add(env.render().shape)
    assert len(sizes) == 1
    red = (env.render() == (220, 60, 50)).all(axis=2)
    assert red.any()
    assert env.render().dtype == np.uint8


def test_sub_environments_share_a_curriculum_that_advances_with_right_answers():
    env = AlgorithmicVectorEnv(16, "copy", max_length=3, curriculum="lookahead")
    _, info = env.reset(seed=0)
    assert env.curriculum.level == 1
    for _ in range(400):
        _, _, _, _, info = env.step(info["target"])
    assert env.curriculum.level == 3


def test_single_sub_environments_can_be_reset():
    env = AlgorithmicVectorEnv(3, "copy", min_length=5)
    before, _ = env.reset(seed=0)
    after, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert np.array_equal(before[[0, 2]], after[[0, 2]])


def test_make_vec_env_plays_the_native_version_with_its_arguments():
    env = make_vec_env(EnvSettings("ntm_rl/Copy-v0", kwargs={"max_length": 2, "curriculum": "lookahead"}), 4, 0)
    assert env.get_attr("curriculum")[0].levels == 2
    env.reset()
    infos = [{}]
    for _ in range(5):
        _, _, _, infos = env.step(np.zeros((4, 8), dtype=np.int8))
    assert env.num_envs == 4
    assert len(infos) == 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_length": -3}, r"env.kwargs = .*max_length = -3: must be an integer of at least 1"),
        ({"lenght": 3}, r"env.kwargs = .*lenght: task 'copy' has no such option"),
        ({"curriculum": "steep"}, r"env.kwargs = .*curriculum = 'steep': must be one of uniform, lookahead"),
    ],
)
@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_wrong_arguments_are_refused_in_one_line(kwargs, message, vectorization):
    with pytest.raises(InputError, match=message):
        make_vec_env(EnvSettings("ntm_rl/Copy-v0", kwargs=kwargs, vectorization=vectorization), 2, 0)


def test_invalid_actions_and_render_modes_are_refused():
    env = AlgorithmicEnv("copy")
    env.reset(seed=0)
    with pytest.raises(InputError, match="action = 3: must be in MultiBinary"):
        env.step(3)
    with pytest.raises(InputError, match="render_mode = 'human': must be one of rgb_array, ansi"):
        AlgorithmicEnv("copy", render_mode="human")
