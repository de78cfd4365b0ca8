"""Environments by id and their wrappers."""

import subprocess
import sys

import gymnasium as gym
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from ntm_rl.envs import EnvSettings, MaskVelocity, PreviousStep, make_env
from ntm_rl.envs.factory import check_spaces
from ntm_rl.errors import InputError

SETTINGS = [
    EnvSettings("CartPole-v1", mask_velocity=True),
    EnvSettings("Pendulum-v1", mask_velocity=True, previous_action=True),
    EnvSettings("popgym-RepeatFirstEasy-v0", previous_action=True, previous_reward=True),
    EnvSettings("popgym-AutoencodeEasy-v0"),
    EnvSettings("popgym-ConcentrationEasy-v0", previous_action=True),
    EnvSettings("MiniGrid-MemoryS7-v0", kwargs={"agent_view_size": 3}),
    EnvSettings("ntm_rl/PendulumNoVelocity-v0"),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.id)
@pytest.mark.filterwarnings(
    # Advice of the two checkers about the originals' spaces, which the wrappers only pass on.
    "ignore:.*(Box observation space|normalize|symmetric|recommend|not the same as the).*:UserWarning",
    "ignore:.*deprecated.*:DeprecationWarning",
)
def test_wrapped_environments_pass_both_checkers(settings):
    env = make_env(settings)
    check_sb3(env)
    if env.spec is not None and "popgym" not in settings.id:  # POPGym's observations change the generator's state
        check_gymnasium(env, skip_render_check=True)


def test_velocities_are_hidden_and_positions_stay():
    plain, masked = gym.make("CartPole-v1"), MaskVelocity(gym.make("CartPole-v1"))
    full, _ = plain.reset(seed=3)
    seen, _ = masked.reset(seed=3)
    np.testing.assert_array_equal(seen, full[[0, 2]])
    assert masked.observation_space.shape == (2,)


def test_the_previous_step_joins_the_observation_and_is_zero_at_the_start():
    env = PreviousStep(gym.make("CartPole-v1"))
    first, _ = env.reset(seed=0)
    assert first["previous_action"].tolist() == [0, 0] and first["previous_reward"].tolist() == [0]
    second, reward, *_ = env.step(1)
    assert second["previous_action"].tolist() == [0, 1] and second["previous_reward"].tolist() == [reward]
    assert env.observation_space.contains(second)
    again, _ = env.reset()
    assert again["previous_action"].tolist() == [0, 0]


def test_a_grid_becomes_one_hot_features_of_cells_and_direction():
    env = make_env(EnvSettings("MiniGrid-MemoryS7-v0", kwargs={"agent_view_size": 3}))
    features, _ = env.reset(seed=1)
    raw = env.env.unwrapped.gen_obs()
    assert features.shape == (9 * 21 + 4,) and features.sum() == 9 * 3 + 1
    for cell, (kind, colour, state) in enumerate(raw["image"].reshape(9, 3)):
        one_hot = features[21 * cell : 21 * (cell + 1)]
        assert one_hot[kind] == one_hot[11 + colour] == one_hot[17 + state] == 1
    assert features[-4 + raw["direction"]] == 1


def test_a_tuple_of_numbers_becomes_one_multidiscrete_observation():
    env = make_env(EnvSettings("popgym-AutoencodeEasy-v0"))
    assert env.observation_space == spaces.MultiDiscrete([2, 4])
    observation, _ = env.reset(seed=0)
    assert observation[0] == 1 and env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EnvSettings("CartPoll-v1"), r"env.id = 'CartPoll-v1': unknown environment.*Did you mean CartPole-v1\?"),
        (EnvSettings("popgym-RepeatPrevius-v0"), r"unknown environment.*Did you mean popgym-RepeatPrevious"),
        (EnvSettings("nowhere:Thing-v0"), "module 'nowhere' is not installed"),
        (EnvSettings("CartPole-v1", kwargs={"gravty": 2}), r"env.kwargs = {'gravty': 2}: CartPole-v1 does not take"),
        (EnvSettings("FrozenLake-v1", mask_velocity=True), r"mask_velocity = True.*'FrozenLake'; valid are CartPole"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_can(settings, message):
    with pytest.raises(InputError, match=message):
        make_env(settings)


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "popgym", None)
    with pytest.raises(InputError, match=r'popgym is not installed; run: pip install "ntm-rl\[popgym\]"'):
        make_env(EnvSettings("popgym-RepeatFirstEasy-v0"))


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Text(4), spaces.Discrete(2), r"observation space Text.*valid are Box"),
        (spaces.Dict({"a": spaces.Text(4)}), spaces.Discrete(2), r"observation 'a' Text"),
        (
            spaces.Discrete(2),
            spaces.Tuple((spaces.Discrete(2),)),
            r"action space Tuple.*valid are Box, Discrete from 0",
        ),
        (spaces.Discrete(2), spaces.Discrete(3, start=1), "action space Discrete.*Discrete from 0"),
    ],
)
def test_spaces_that_no_policy_reads_are_refused(observation, action, message):
    with pytest.raises(InputError, match=message):
        check_spaces("Some-v0", observation, action)


def test_an_id_with_the_packages_name_needs_no_import():
    code = "import gymnasium; print(gymnasium.make('ntm_rl:ntm_rl/CartPoleNoVelocity-v0').observation_space.shape)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "(2,)"
