"""Whole trainings: the agents learn what needs a memory, within the steps that the README says."""

import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.training import train


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_ntm_begins_to_remember_four_cards_back(tmp_path):
    overrides = ["total_timesteps=160000", "wandb=disabled", f"run_dir={tmp_path}", "threads=1"]
    settings = load_settings("popgym/repeat_previous_easy", overrides)
    result = train(settings, "popgym/repeat_previous_easy", show_progress=False)
    assert result.score > 0  # -0.5 is chance, and what a policy without memory stays at


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_critic_learns_what_needs_no_memory_in_2_000_steps(algorithm, seed):
    """SB3's `test_identity`: returns are up to 20, and a value loss of that size must not dominate in the core."""
    env = IdentityEnvBox(eps=0.5)
    kwargs = dict(net_arch=[64, 64], log_std_init=-0.5)
    model = algorithm("MlpNtmPolicy", env, learning_rate=1e-3, n_epochs=10, gamma=0.95, policy_kwargs=kwargs, seed=seed)
    model.learn(2_000)
    assert evaluate_policy(model, env, n_eval_episodes=20, warn=False)[0] >= 90  # 50 is a constant action's


@pytest.mark.slow
@pytest.mark.parametrize("core", ["ntm", "lstm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_repeat_previous_is_solved_within_a_million_steps(core, seed, tmp_path):
    overrides = [f"core={core}", f"seed={seed}", "wandb=disabled", f"run_dir={tmp_path}", "threads=1"]
    settings = load_settings("popgym/repeat_previous_easy", overrides)
    assert train(settings, "popgym/repeat_previous_easy", show_progress=False).score >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("core", ["ntm", "lstm"])
@pytest.mark.parametrize("config", ["memory/passive_tmaze", "memory/memory_chain"])
def test_what_was_told_once_is_remembered_over_10_and_20_steps(config, core, tmp_path):
    settings = load_settings(config, [f"core={core}", "wandb=disabled", f"run_dir={tmp_path}", "threads=1"])
    assert train(settings, config, show_progress=False).score >= 0.95  # 0.5 and 0 without memory


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gated_delta_rule_solves_repeat_previous_in_a_quarter_of_a_million_steps(seed, tmp_path):
    overrides = ["core=gated_delta", f"seed={seed}", "total_timesteps=250000", "wandb=disabled", f"run_dir={tmp_path}"]
    settings = load_settings("popgym/repeat_previous_easy", overrides)
    assert train(settings, "popgym/repeat_previous_easy", show_progress=False).score >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("core", ["ntm", "lstm"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cartpole_without_velocities_is_solved_with_the_settings_of_sb3_contribs_test(core, seed):
    env = VecNormalize(make_vec_env("ntm_rl/CartPoleNoVelocity-v0", 8, seed=seed))
    options = dict(n_steps=128, learning_rate=7e-4, batch_size=256, n_epochs=10, max_grad_norm=1, gae_lambda=0.98)
    model = MemoryPPO("MlpNtmPolicy", env, policy_kwargs=dict(core=core), seed=seed, **options)
    model.learn(50_000)
    env.training, env.norm_reward = False, False
    assert evaluate_policy(model, env, n_eval_episodes=20)[0] >= 450


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unmodified_recurrent_ppo_solves_cartpole_without_velocities_in_50_000_steps(seed):
    env = VecNormalize(make_vec_env("ntm_rl/CartPoleNoVelocity-v0", 8, seed=seed), gamma=0.98)
    model = RecurrentPPO(
        "MlpNtmPolicy",
        env,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.95,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        policy_kwargs=dict(
            core="ntm",
            core_kwargs=dict(slots=16, width=8, hidden_size=64),
            critic="separate",
            net_arch=[64],
            activation_fn=torch.nn.Tanh,
            optimizer_kwargs=dict(eps=1e-5, fused=True),
        ),
        seed=seed,
    )
    model.learn(50_000)
    env.training, env.norm_reward = False, False
    mean, _ = evaluate_policy(model, env, n_eval_episodes=20)
    print(f"seed {seed}: mean return {mean}")
    assert mean >= 450
