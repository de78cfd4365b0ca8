"""Sizes that are "auto": the rule compared with values computed by hand, and where it is applied."""

import gymnasium as gym
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from ntm_rl import MemoryPPO
from ntm_rl.agents.ppo.making import make_model, with_sizes
from ntm_rl.agents.ppo.probe import probe_environment
from ntm_rl.agents.ppo.sizes import choose_sizes
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.envs.sb3.making import make_vec_env as make_our_vec_env
from ntm_rl.errors import InputError
from small_models import lstm_model

CARTPOLE = "CartPole-v1"  # at most 500 steps


@pytest.mark.parametrize(
    ("episode_limit", "given", "expected"),
    [
        # n_envs, n_steps, batch_size, sequence_length, n_epochs
        (None, {}, (32, 128, 1024, 128, 4)),
        (1, {}, (32, 128, 1024, 128, 4)),
        (128, {}, (32, 128, 1024, 128, 4)),
        (129, {}, (24, 160, 960, 160, 4)),  # 4096 / 160 = 25.6
        (200, {}, (20, 224, 1120, 224, 4)),
        (500, {}, (8, 512, 1024, 512, 4)),
        (10_000, {}, (8, 512, 1024, 512, 4)),
        (500, {"n_envs": 1}, (1, 128, 128, 128, 10)),
        (None, {"n_envs": 1}, (1, 128, 128, 128, 10)),
        (None, {"n_envs": 3}, (3, 128, 128, 128, 10)),
        (None, {"n_envs": 7}, (7, 128, 128, 128, 10)),
        (None, {"n_envs": 9}, (9, 128, 384, 128, 4)),  # 9 sequences: a third
        (None, {"n_envs": 10, "n_steps": 64}, (10, 64, 128, 64, 4)),  # 10 sequences: a fifth
        (None, {"n_envs": 11, "n_steps": 64}, (11, 64, 192, 64, 4)),  # 3, 3, 3 and 2 sequences
        (None, {"n_envs": 1024}, (1024, 128, 32_768, 128, 4)),
        (None, {"n_envs": 1, "n_steps": 1}, (1, 1, 1, 1, 10)),
        (None, {"n_steps": 100}, (32, 100, 800, 100, 4)),
        (None, {"n_steps": 2048, "n_envs": 1}, (1, 2048, 128, 128, 10)),
        (None, {"n_steps": 1000, "n_envs": 4}, (4, 1000, 125, 125, 10)),
        (None, {"n_steps": 1000, "n_envs": 8}, (8, 1000, 2000, 500, 4)),
        (None, {"n_steps": 1021, "n_envs": 4}, (4, 1021, 1021, 1021, 10)),  # a prime
        (500, {"sequence_length": 64}, (8, 512, 1024, 64, 4)),
        (None, {"sequence_length": 48}, (28, 144, 1008, 48, 4)),
        (None, {"sequence_length": 1000}, (8, 1000, 2000, 1000, 4)),
        (None, {"sequence_length": 1000, "n_envs": 1}, (1, 1000, 1000, 1000, 10)),
        (None, {"sequence_length": 16, "n_envs": 1}, (1, 128, 16, 16, 10)),
        (None, {"sequence_length": None, "n_envs": 16}, (16, 128, 512, None, 4)),
        (500, {"batch_size": 64}, (8, 512, 64, 64, 4)),
        (None, {"batch_size": 1000}, (16, 250, 1000, 125, 4)),
        (None, {"batch_size": 8192}, (32, 256, 8192, 128, 4)),
        (None, {"batch_size": None, "n_envs": 8}, (8, 128, None, 128, 4)),
        (500, {"n_steps": 128, "batch_size": 64, "n_envs": 2}, (2, 128, 64, 64, 10)),
        (500, {"n_steps": 127, "batch_size": 64, "n_envs": 1}, (1, 127, 64, 64, 10)),
        (None, {"n_epochs": 3}, (32, 128, 1024, 128, 3)),
    ],
)
def test_sizes_follow_from_the_episode_and_from_explicit_sizes(episode_limit, given, expected):
    assert choose_sizes(episode_limit, **given) == expected


@pytest.mark.parametrize("episode_limit", [None, 20, 150, 333, 5000])
@pytest.mark.parametrize("n_envs", [8, 17, 31, 32, 100, 4096])
def test_minibatches_are_whole_sequences_of_a_rollout_of_at_least_four(episode_limit, n_envs):
    _, n_steps, batch_size, length, _ = choose_sizes(episode_limit, n_envs=n_envs)
    assert n_steps % length == 0 and batch_size % length == 0
    assert n_envs * n_steps >= 4 * length
    assert 3 <= -(-n_envs * n_steps // batch_size) <= 5


def sizes_of(model: MemoryPPO) -> tuple:
    return model.n_steps, model.batch_size, model.sequence_length


@pytest.mark.parametrize(
    ("n_envs", "given", "expected"),
    [
        (1, {}, (128, 128, 128)),
        (8, {}, (512, 1024, 512)),
        (4, {"n_steps": 100}, (100, 100, 100)),
        (4, {"n_steps": 100, "batch_size": None}, (100, None, 100)),
    ],
)
def test_a_model_has_the_sizes_that_were_chosen_and_keeps_them_in_a_file(n_envs, given, expected, tmp_path):
    model = lstm_model(make_vec_env(CARTPOLE, n_envs), **given)
    assert sizes_of(model) == expected
    assert model.rollout.sequence_length == expected[2]
    model.save(tmp_path / "model.zip")
    assert sizes_of(MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env(CARTPOLE, n_envs))) == expected


class Endless(gym.Env):
    """An environment without a time limit."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (Endless, 128),
        (lambda: DummyVecEnv([lambda: gym.wrappers.TimeLimit(Endless(), 300)] * 8), 320),
        (lambda: DummyVecEnv([lambda: gym.wrappers.TimeLimit(Endless(), 300)] * 7), 128),
        (lambda: DummyVecEnv([lambda: gym.make("ntm_rl/MemoryChain-v0", length=199)] * 8), 224),
        (lambda: gym.make_vec("ntm_rl/PassiveTMaze-v0", 8, length=199), 224),
        (lambda: gym.make_vec(CARTPOLE, 8, vectorization_mode="sync"), 512),
    ],
)
def test_a_sequence_holds_an_episode_of_any_kind_of_environment(make, length):
    assert lstm_model(make()).sequence_length == length


# Other arguments of the algorithm have the same names as the keys of `ppo`.
SHARED = ("n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "normalize_advantage", "target_kl")
SHARED += ("n_steps", "batch_size", "sequence_length", "recompute_states", "use_sde", "sde_sample_freq")


def test_python_and_the_command_line_have_the_same_defaults():
    settings = load_settings(CARTPOLE, ["n_envs=2", "device=cpu"])
    theirs = make_model(settings, make_our_vec_env(settings.env_settings, 2, seed=0))
    ours = MemoryPPO("MlpNtmPolicy", make_vec_env(CARTPOLE, 2), seed=0, device="cpu")
    for name in SHARED:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert all(ours.lr_schedule(each) == theirs.lr_schedule(each) for each in (1.0, 0.5, 0.0))
    assert ours.clip_range(1.0) == theirs.clip_range(1.0) and ours.clip_range_vf is theirs.clip_range_vf is None
    assert ours.policy.optimizer.defaults == theirs.policy.optimizer.defaults
    assert str(ours.policy) == str(theirs.policy) and ours.policy.critic_kind == theirs.policy.critic_kind


def test_a_default_learning_rate_decays_but_a_given_one_is_constant():
    assert isinstance(lstm_model().learning_rate, LinearSchedule)
    assert lstm_model(learning_rate=3e-4).lr_schedule(0.1) == 3e-4


@pytest.mark.parametrize(
    ("env_id", "limit", "sizes"),
    [
        (CARTPOLE, 500, (8, 512, 1024, 512)),
        ("popgym-RepeatPreviousHard-v0", 155, (24, 160, 960, 160)),
        ("popgym-BattleshipEasy-v0", 64, (32, 128, 1024, 128)),
        ("MiniGrid-MemoryS7-v0", 245, (16, 256, 1024, 256)),
        ("ntm_rl/Copy-v0", 41, (32, 128, 1024, 128)),  # 20 vectors, the delimiter and 20 answers
        ("ALE/Pong-v5", None, (32, 128, 1024, 128)),
    ],
)
def test_settings_get_numbers_for_their_environment(env_id, limit, sizes):
    settings = load_settings(env_id)
    assert probe_environment(settings.env_settings, 0).episode_limit == limit
    found = with_sizes(settings, limit)
    assert (found.n_envs, found.ppo.n_steps, found.ppo.batch_size, found.ppo.sequence_length) == sizes
    assert with_sizes(found, 10_000) is found


def test_a_limit_in_the_settings_counts():
    settings = load_settings("Pendulum-v1", ["env.max_episode_steps=400"])
    assert probe_environment(settings.env_settings, 0).episode_limit == 400


def test_explicit_sizes_that_no_other_size_fits_are_an_error():
    settings = load_settings(CARTPOLE, ["ppo.batch_size=1009"])
    with pytest.raises(InputError, match=r"ppo.batch_size = 1009: must be a multiple of ppo.sequence_length = 512"):
        with_sizes(settings, 500)
