"""The package's own ids."""

import copy
import pickle
import subprocess
import sys

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import env_checker as gymnasium_checker
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common import env_checker as sb3_checker
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecVideoRecorder

from ntm_rl.envs.registration import ALGORITHMIC, DIAGNOSTIC, NO_VELOCITY


def test_an_id_with_the_packages_name_needs_no_import():
    code = "import gymnasium; print(gymnasium.make('ntm_rl:ntm_rl/CartPoleNoVelocity-v0').observation_space.shape)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "(2,)"


@pytest.mark.parametrize("name", [name for name in NO_VELOCITY if "Lunar" not in name])  # that one needs Box2D
def test_a_registered_task_is_the_original_without_velocities(name):
    ours, original = gym.make(f"ntm_rl/{name}"), gym.make(NO_VELOCITY[name])
    kept = {"CartPole": [0, 2], "Pendulum": [0, 1], "MountainCarContinuous": [0]}[original.spec.name]
    for seed in (0, None):  # two episodes
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], original.reset(seed=seed)[0][kept])
        ended, steps = False, 0
        original.action_space.seed(3)
        while not ended:
            action = original.action_space.sample()
            seen, expected = ours.step(action), original.step(action)
            np.testing.assert_array_equal(seen[0], expected[0][kept])
            assert seen[1:4] == expected[1:4]
            ended, steps = seen[2] or seen[3], steps + 1
        assert steps <= original.spec.max_episode_steps


def test_the_time_limit_of_a_registered_task_can_be_raised():
    assert gym.make("ntm_rl/PendulumNoVelocity-v0", max_episode_steps=1000).spec.max_episode_steps == 1000
    env = gym.make("ntm_rl/PendulumNoVelocity-v0", max_episode_steps=300)
    env.reset(seed=0)
    assert [step for step in range(1, 301) if env.step(env.action_space.sample())[3]] == [300]


def test_environments_alone_load_neither_torch_nor_sb3():
    code = (
        "import sys; from ntm_rl.envs import EnvSettings, PreviousStepVector, make_env; import ntm_rl.envs.native; "
        "make_env(EnvSettings('CartPole-v1', mask_velocity=True, previous_action=True)); "
        "print([name for name in ('torch', 'stable_baselines3', 'popgym', 'minigrid') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


DRAWN = [f"ntm_rl/{name}" for name in [*ALGORITHMIC, *DIAGNOSTIC]]
OWN = [f"ntm_rl/{name}" for name in NO_VELOCITY if "Lunar" not in name] + DRAWN


@pytest.mark.parametrize("env_id", OWN)
@pytest.mark.filterwarnings("ignore:.*(Box|is different from the unwrapped version):UserWarning")  # advice
def test_the_checkers_of_gymnasium_and_sb3_find_nothing_wrong(env_id):
    gymnasium_checker.check_env(gym.make(env_id).unwrapped)
    sb3_checker.check_env(gym.make(env_id))


def by_pickle(env):
    return pickle.loads(pickle.dumps(env))


def by_cloudpickle(env):
    return cloudpickle.loads(cloudpickle.dumps(env))


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_cloudpickle])
@pytest.mark.parametrize("env_id", OWN)
def test_a_deep_copy_of_an_environment_plays_the_same_episode(env_id, copied):
    env = gym.make(env_id)
    env.action_space.seed(0)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    other = copied(env)
    for _ in range(5):
        action = env.action_space.sample()
        for ours, theirs in zip(env.step(action)[:4], other.step(action)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("env_id", DRAWN)
def test_images_have_one_size_over_all_episodes(env_id):
    venv = make_vec_env(env_id, n_envs=4, seed=0)
    venv.reset()
    shape, ends = venv.render().shape, 0
    for _ in range(400):
        _, _, dones, _ = venv.step(np.array([venv.action_space.sample() for _ in range(4)]))
        assert {image.shape for image in venv.get_images()} == {venv.get_images()[0].shape}
        ends += dones.sum()
        if ends > 4:
            break
    assert ends > 4 and venv.render().shape == shape


@pytest.mark.parametrize("env_id", DRAWN)
def test_a_native_vector_environment_renders_every_sub_environment(env_id):
    envs = gym.make_vec(env_id, 3, render_mode="rgb_array")
    envs.reset(seed=0)
    single = gym.make(env_id, render_mode="rgb_array")
    single.reset(seed=2)
    assert len(envs.render()) == 3
    np.testing.assert_array_equal(envs.render()[2], single.render())


@pytest.mark.parametrize("env_id", ["ntm_rl/Copy-v0", "ntm_rl/MemoryChain-v0"])
def test_videos_of_several_episodes_are_written(env_id, tmp_path):
    pytest.importorskip("moviepy")
    env = RecordVideo(gym.make(env_id, render_mode="rgb_array"), str(tmp_path), video_length=60, disable_logger=True)
    venv = VecVideoRecorder(make_vec_env(env_id, 2), str(tmp_path), lambda step: step == 0, video_length=60)
    env.reset(seed=0), venv.reset()
    for _ in range(60):
        if any(env.step(env.action_space.sample())[2:4]):
            env.reset()
        venv.step(np.array([venv.action_space.sample() for _ in range(2)]))
    env.close(), venv.close()
    assert len(list(tmp_path.glob("*.mp4"))) == 2
