"""Environments by id and their wrappers."""

import sys

import gymnasium as gym
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from ntm_rl.envs import EnvSettings, make_env
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
    EnvSettings("Blackjack-v1"),
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EnvSettings("CartPoll-v1"), r"env.id = 'CartPoll-v1': unknown environment.*Did you mean CartPole-v1\?"),
        (EnvSettings("popgym-RepeatPrevius-v0"), r"unknown environment.*Did you mean popgym-RepeatPrevious"),
        (
            EnvSettings("nowhere:Thing-v0"),
            "no module 'nowhere': it is not installed, and .* has no nowhere.py",
        ),
        (EnvSettings("not an id"), r"env.id = 'not an id': cannot be made: Malformed"),
        (EnvSettings("Pendulum-v0", kwargs={"g": 1}), r"env.id = 'Pendulum-v0': cannot be made:.*use `Pendulum-v1`"),
        (EnvSettings("CartPole-v1", max_episode_steps=0), r"env.max_episode_steps = 0: must be at least 1"),
        (EnvSettings("CartPole-v1", max_episode_steps=True), r"env.max_episode_steps = True: must be at least 1"),
        (
            EnvSettings("CartPole-v1", kwargs={"gravty": 2}),
            r"env.kwargs = {'gravty': 2}: invalid for CartPole-v1: ",
        ),
        (EnvSettings("FrozenLake-v1", mask_velocity=True), r"mask_velocity = True.*'FrozenLake'; valid are CartPole"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*The environment Pendulum-v0 is out of date")  # the error says so too
def test_invalid_settings_are_refused_with_the_valid_values(settings, message):
    with pytest.raises(InputError, match=message):
        make_env(settings)


def test_a_missing_extra_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "popgym", None)
    with pytest.raises(InputError, match=r'popgym is not installed; run: pip install "ntm-rl\[popgym\]"'):
        make_env(EnvSettings("popgym-RepeatFirstEasy-v0"))


def test_a_module_that_the_environment_imports_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(InputError, match=r"'phys2d/CartPole-v1': .*cartpole.py, line \d+, in <module>: .*jax"):
        make_env(EnvSettings("phys2d/CartPole-v1"))


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Text(4), spaces.Discrete(2), r"observation space Text.*valid are Box"),
        (spaces.Dict({"a": spaces.Text(4)}), spaces.Discrete(2), r"observation 'a' Text"),
        (
            spaces.Discrete(2),
            spaces.Tuple((spaces.Discrete(2),)),
            r"action space = Tuple.*valid are Box, Discrete.*TransformAction",
        ),
        (
            spaces.Discrete(2),
            spaces.MultiBinary((2, 2)),
            r"action space = MultiBinary.*one dimension.*MultiBinary\(4\)",
        ),
        (
            spaces.Discrete(2),
            spaces.MultiDiscrete([[2, 2]]),
            r"action space = MultiDiscrete\(\[\[2 2\]\]\).*one dimension",
        ),
        (spaces.Discrete(2), spaces.Box(-np.inf, np.inf, (1,)), r"action space = Box.*finite bounds.*ClipAction"),
        (spaces.Discrete(2), spaces.Box(0, np.inf, (1,)), r"action space = Box.*finite bounds"),
        (spaces.Discrete(2), spaces.Box(0, 1, (0,)), r"action space = Box.*at least one element"),
    ],
)
def test_unsupported_spaces_are_refused(observation, action, message):
    with pytest.raises(InputError, match=message):
        check_spaces("Some-v0", observation, action)


class Twice(gym.Env):
    """Has two parts with the key `a/b`."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})})


gym.register("Twice-v0", entry_point=Twice)


def test_an_observation_that_cannot_be_read_names_the_environment():
    with pytest.raises(InputError, match=r"env.id = 'Twice-v0': observation 'a/b': two parts of .*rename one"):
        make_env(EnvSettings("Twice-v0"))


@pytest.mark.parametrize(
    "action", [spaces.Discrete(3, start=1), spaces.Discrete(2, start=-1), spaces.MultiDiscrete([2, 3], start=[1, -1])]
)
def test_discrete_actions_may_have_any_start(action):
    check_spaces("Some-v0", spaces.Discrete(2), action)


def test_a_missing_engine_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    monkeypatch.delitem(sys.modules, "gymnasium.envs.box2d.lunar_lander", raising=False)
    with pytest.raises(InputError, match=r"env.id = 'LunarLander-v3': Box2D is not installed.*pip install"):
        make_env(EnvSettings("LunarLander-v3"))


def test_the_time_limit_replaces_the_environments_own():
    env = make_env(EnvSettings("Pendulum-v1", max_episode_steps=3))
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(3)] == [False, False, True]
