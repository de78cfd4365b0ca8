"""The longest episode of environments."""

import gymnasium as gym
import popgym  # noqa: F401  (registers its ids)
import pytest

from ntm_rl.envs.episode_limit import episode_limit
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.native import CONFIGURABLE, NATIVE, make_native
from ntm_rl.errors import InputError

# By hand.
LIMITS = {
    "popgym-RepeatPreviousMedium-v0": ({}, 2 * 52 - 1),
    "popgym-ConcentrationEasy-v0": ({}, 104),
    "popgym-BattleshipHard-v0": ({}, 12 * 12),
    "popgym-MineSweeperEasy-v0": ({}, 4 * 4 - 2),
    "popgym-PositionOnlyPendulumHard-v0": ({}, 100),
    "CartPole-v1": ({}, 500),
    "ntm_rl/CartPoleNoVelocity-v0": ({}, 500),
    "Acrobot-v1": ({}, 500),  # not native: Gymnasium's own limit
    "MiniGrid-MemoryS9-v0": ({"agent_view_size": 3}, 5 * 9**2),
    "ntm_rl/MemoryChain-v0": ({"length": 7}, 8),
    "ntm_rl/PassiveTMaze-v0": ({"length": 7}, 8),
    "ntm_rl/EndlessTMaze-v0": ({"length": 2, "corridors": 4}, 6 * 3 * 4),
    "ntm_rl/ColorCubes-v0": ({"difficulty": "trivial"}, 2 * (5 - 1)),
    "ntm_rl/Copy-v0": ({"max_length": 10}, 21),
    "ALE/Pong-v5": ({}, 108_000 // 4),
}


@pytest.mark.parametrize("env_id", LIMITS)
def test_the_limit_is_that_of_the_rules(env_id):
    kwargs, limit = LIMITS[env_id]
    assert episode_limit(EnvSettings(env_id, kwargs)) == limit


def test_the_limit_of_the_settings_comes_first():
    assert episode_limit(EnvSettings("CartPole-v1", max_episode_steps=30)) == 30
    assert episode_limit(EnvSettings("CartPole-v1", {"max_episode_steps": 20})) == 20
    assert episode_limit(EnvSettings("ALE/Pong-v5", {"max_frames": 1000, "frame_skip": 5})) == 200


def test_an_environment_without_a_limit_has_none():
    assert episode_limit(EnvSettings("Blackjack-v1")) is None
    with pytest.raises(InputError, match="unknown environment"):
        episode_limit(EnvSettings("CartPoole-v1"))


@pytest.mark.parametrize("env_id", NATIVE)
def test_no_episode_is_longer_than_the_limit(env_id):
    kwargs = {"agent_view_size": 3} if env_id.startswith("MiniGrid") and env_id in CONFIGURABLE else {}
    envs = make_native(env_id, 4, kwargs)
    limit = episode_limit(EnvSettings(env_id, kwargs))
    envs.reset(seed=0)
    envs.action_space.seed(0)
    lengths, longest = [0] * 4, 0
    for _ in range(min(2 * limit, 1000)):
        _, _, terminated, truncated, _ = envs.step(envs.action_space.sample())
        lengths = [length + 1 for length in lengths]
        longest = max([longest, *lengths])
        lengths = [0 if ended else length for length, ended in zip(lengths, terminated | truncated, strict=True)]
    assert 0 < longest <= limit


def test_popgyms_games_end_at_the_limit():
    env_id = "popgym-RepeatFirstEasy-v0"
    env, steps, ended = gym.make(env_id), 0, False
    env.reset(seed=0)
    while not ended:
        _, _, terminated, truncated, _ = env.step(0)
        steps, ended = steps + 1, terminated or truncated
    assert steps == episode_limit(EnvSettings(env_id))
