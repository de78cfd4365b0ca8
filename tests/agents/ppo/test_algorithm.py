"""MemoryPPO: bootstrapping, gradients and updates against hand-made references, seeds, saving, bad sizes."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.ppo.making import make_model as make_configured_model
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.cores.registry import core_names
from ntm_rl.envs.sb3 import making as envs
from ntm_rl.errors import InputError
from small_models import lstm_model

SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=[8])
CARTPOLE = "CartPole-v1"


def make_model(env="CartPole-v1", **kwargs) -> MemoryPPO:
    settings = dict(n_steps=16, sequence_length=8, batch_size=16, n_epochs=2, policy_kwargs=SMALL, seed=0)
    return MemoryPPO("MlpNtmPolicy", env, **{**settings, **kwargs})


def collect(model: MemoryPPO) -> None:
    _, callback = model._setup_learn(1)
    model.set_logger(Logger(None, []))
    assert model.collect_rollouts(model.env, callback, None, model.n_steps)


class CountingEnv(gym.Env):
    """Observes the step number; reward 1 a step; ends after `length` steps, by time limit or on its own."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, length: int, truncates: bool):
        self.length, self.truncates = length, truncates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        ends = self.steps == self.length
        return np.full(1, self.steps, np.float32), 1.0, ends and not self.truncates, ends and self.truncates, {}


class WithoutGradients(CountingEnv):
    """Switches gradients off for the whole process, as environments with networks of their own do."""

    def reset(self, *, seed=None, options=None):
        torch.set_grad_enabled(False)
        return super().reset(seed=seed)


def test_an_environment_that_switches_gradients_off_is_trained_on():
    try:
        model = make_model(WithoutGradients(3, truncates=False))
        before = [each.clone() for each in model.policy.parameters()]
        model.learn(32)
        assert any(not torch.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))
    finally:
        torch.set_grad_enabled(True)


def test_a_time_limit_bootstraps_from_the_terminal_observation_in_the_memory_state_reached_there():
    env = DummyVecEnv([lambda: CountingEnv(3, truncates=True), lambda: CountingEnv(5, truncates=False)])
    model = make_model(env, gamma=0.9, batch_size=32)
    collect(model)
    policy, fresh = model.policy, torch.zeros(1, dtype=torch.bool)
    with torch.no_grad():
        state = policy.initial_state(1)
        for number in (0.0, 1.0, 2.0):
            state = policy.advance(torch.tensor([[number]]), state, fresh.unsqueeze(0))
        bonus = 0.9 * policy.values(torch.tensor([[3.0]]), state, fresh).item()
    assert abs(bonus) > 1e-4
    expected = [1 + (bonus if step % 3 == 2 else 0) for step in range(16)]
    np.testing.assert_allclose(model.rollout.rewards[:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(model.rollout.rewards[:, 1], 1)
    assert model.rollout.resets[:, 0].tolist() == [step % 3 == 0 for step in range(16)]


@pytest.mark.parametrize("core", core_names())
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_the_first_minibatch_finds_the_rollouts_own_values_and_probabilities(core, critic):
    kwargs = dict(core=core, core_kwargs=dict(hidden_size=8), critic=critic)
    env = DummyVecEnv([lambda: CountingEnv(3, truncates=True), lambda: CountingEnv(5, truncates=False)])
    model = make_model(env, policy_kwargs=kwargs)
    collect(model)
    collect(model)  # the second rollout begins in the middle of an episode
    for batch in model.rollout.minibatches(16):
        values, log_probs, _ = model.policy.evaluate_sequences(
            batch.observations, batch.actions, batch.states, batch.resets
        )
        torch.testing.assert_close(values, batch.old_values)
        torch.testing.assert_close(log_probs, batch.old_log_probs)


def test_the_loss_is_the_clipped_surrogate_written_out():
    model = make_model(clip_range=0.1, clip_range_vf=0.2, ent_coef=0.03, vf_coef=0.4)
    collect(model)
    with torch.no_grad():  # a policy that has moved, so that the clips bite
        for parameter in model.policy.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.policy.return_scale.std.fill_(2.5**0.5)
    batch = next(model.rollout.minibatches(16))
    loss, measured = model._loss(batch)

    values, log_probs, entropy = (
        part.detach().numpy().astype(np.float64)
        for part in model.policy.evaluate_sequences(batch.observations, batch.actions, batch.states, batch.resets)
    )
    advantages = batch.advantages.numpy().astype(np.float64)
    advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    policy_loss = value_loss = clipped = 0.0
    for i in range(16):
        ratio = np.exp(log_probs[i] - batch.old_log_probs[i].item())
        policy_loss -= min(ratio * advantages[i], np.clip(ratio, 0.9, 1.1) * advantages[i]) / 16
        clipped += (abs(ratio - 1) > 0.1) / 16
        old = batch.old_values[i].item()
        value_loss += (batch.returns[i].item() - (old + np.clip(values[i] - old, -0.2, 0.2))) ** 2 / 16
    assert clipped > 0
    assert measured["clip_fraction"].item() == pytest.approx(clipped)
    assert loss.item() == pytest.approx(policy_loss - 0.03 * entropy.mean() + 0.4 * value_loss / 2.5, rel=1e-4)


def test_recomputed_states_are_what_the_current_weights_would_have_reached():
    model = make_model(n_steps=12, sequence_length=4, batch_size=4)
    collect(model)
    first = model.rollout.states[0].clone()
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        stale = model.rollout.states.clone()
        model.rollout.recompute_states(model.policy.advance)
        state = first
        for step in range(12):
            if step % 4 == 0:
                torch.testing.assert_close(model.rollout.states[step // 4], state)
            state = model.policy.advance(model.rollout.observations[step], state, model.rollout.resets[step : step + 1])
    assert not torch.allclose(stale[1], model.rollout.states[1])


def test_the_same_seed_gives_the_same_rollout_and_the_same_weights_twice():
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        model = make_model(make_vec_env("CartPole-v1", 4, seed=3), seed=3).learn(128)
        return model.rollout.observations.clone(), torch.nn.utils.parameters_to_vector(model.policy.parameters())

    first, second = run(), run()
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_a_saved_model_continues_training_and_predicts_the_same(tmp_path):
    model = make_model(recompute_states=True, learning_rate=1e-3).learn(32)
    model.save(tmp_path / "model.zip")
    loaded = MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env("CartPole-v1", 3))
    obs = np.ones((3, 4), dtype=np.float32)
    expected, found = model.predict(obs, deterministic=True), loaded.predict(obs, deterministic=True)
    np.testing.assert_array_equal(expected[0], found[0])
    np.testing.assert_array_equal(expected[1][0], found[1][0])
    loaded.learn(48, reset_num_timesteps=False)
    assert loaded.num_timesteps > model.num_timesteps
    mean, _ = evaluate_policy(loaded, loaded.get_env(), n_eval_episodes=2)
    assert mean >= 1


def test_logs_carry_sb3s_metric_names():
    model = make_model(make_vec_env("CartPole-v1", 2), clip_range_vf=0.2)
    recorded = {}
    model.set_logger(Logger(None, []))
    dump = model.logger.dump
    model.logger.dump = lambda step=0: (recorded.update(model.logger.name_to_value), dump(step))
    model.learn(256)
    assert {
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "time/fps",
        "time/total_timesteps",
        "train/approx_kl",
        "train/clip_fraction",
        "train/clip_range",
        "train/clip_range_vf",
        "train/entropy_loss",
        "train/explained_variance",
        "train/learning_rate",
        "train/loss",
        "train/n_updates",
        "train/policy_gradient_loss",
        "train/value_loss",
    } <= set(recorded)
    assert all(np.isfinite(value) for value in recorded.values())


def test_target_kl_stops_the_epochs_early():
    model = make_model(target_kl=1e-9, n_epochs=50, learning_rate=1e-2)
    model.learn(16)
    assert model._n_updates < 50


def test_generalised_state_dependent_exploration_trains():
    model = make_model("Pendulum-v1", use_sde=True, sde_sample_freq=4)
    model.learn(32)
    assert torch.isfinite(torch.nn.utils.parameters_to_vector(model.policy.parameters())).all()


def test_a_callback_can_stop_the_rollout():
    steps = []
    make_model().learn(1000, callback=lambda *_: steps.append(1) or len(steps) < 5)
    assert len(steps) == 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(sequence_length=0), "sequence_length = 0: must be an integer of at least 1"),
        (dict(batch_size=0), "batch_size = 0: must be an integer of at least 1"),
        (dict(batch_size=16.0), r"batch_size = 16.0: must be an integer of at least 1"),
        (dict(n_steps=0), "n_steps = 0: must be an integer of at least 1"),
        (dict(n_epochs=0), "n_epochs = 0: must be an integer of at least 1"),
        (dict(clip_range_vf=-1), "clip_range_vf = -1: must be a number above 0, or None"),
    ],
)
def test_sizes_below_one_name_their_key(kwargs, message):
    with pytest.raises(InputError, match=message):
        make_model(**kwargs)


def test_a_policy_without_a_memory_core_is_refused():
    with pytest.raises(InputError, match=r"policy = .*core='lstm'"):
        MemoryPPO("MlpLstmPolicy", "CartPole-v1")


def test_a_configs_epsilon_is_adams_and_holds_back_weights_of_small_gradients():
    moved = {}
    for epsilon in (1e-5, 1e3):
        sizes = [
            "n_envs=2",
            "ppo.n_steps=16",
            "ppo.sequence_length=8",
            "ppo.batch_size=16",
            f"ppo.adam_epsilon={epsilon}",
        ]
        settings = load_settings("popgym/repeat_previous_easy", [*sizes, "core=lstm", "total_timesteps=32"])
        model = make_configured_model(
            settings, envs.make_vec_env(settings.env_settings, settings.n_envs, settings.seed)
        )
        before = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()
        model.learn(settings.total_timesteps)
        after = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
        moved[epsilon] = (after - before).abs().max().item()
    assert moved[1e3] < 1e-3 * moved[1e-5]


def test_an_agent_of_many_environments_loads_with_one_and_one_of_one_with_many(tmp_path):
    lstm_model(make_vec_env(CARTPOLE, 8), n_steps=128, sequence_length=32, batch_size=512).save(tmp_path / "model.zip")
    for n_envs in (1, 3, 20):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You have specified a mini-batch size")
            model = MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env(CARTPOLE, n_envs))
        model.learn(1)
        assert model.num_timesteps == 128 * n_envs
    model = MemoryPPO.load(tmp_path / "model.zip")
    model.set_env(make_vec_env(CARTPOLE, 8))
    model.learn(1)


@pytest.mark.parametrize("n_steps", [64, 128, 100, 1])
@pytest.mark.parametrize("batch_size", [64, None])
def test_a_file_of_recurrent_ppo_loads_and_acts_the_same(tmp_path, n_steps, batch_size):
    theirs = lstm_model(algorithm=RecurrentPPO, n_steps=n_steps, batch_size=batch_size)
    theirs.save(tmp_path / "model.zip")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You have specified a mini-batch size")
        ours = MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env(CARTPOLE, 2), device="cpu")
    observations = np.random.default_rng(0).normal(size=(6, 1, 4)).astype(np.float32)
    states = [None, None]
    for observation in observations:
        for index, model in enumerate((theirs, ours)):
            _, states[index] = model.predict(observation, states[index], deterministic=True)
        np.testing.assert_array_equal(*(state[0] for state in states))
    ours.learn(1)
    assert ours.num_timesteps == 2 * n_steps and ours.n_epochs == theirs.n_epochs == 10


def test_custom_objects_replace_what_a_file_holds(tmp_path):
    lstm_model(n_steps=16, learning_rate=lambda progress: 1e-3 * progress).save(tmp_path / "model.zip")
    objects = {"learning_rate": 1e-4, "lr_schedule": lambda _: 1e-4, "clip_range": lambda _: 0.1}
    model = MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env(CARTPOLE), custom_objects=objects)
    model.learn(16)
    assert model.policy.optimizer.param_groups[0]["lr"] == 1e-4 and model.clip_range(1.0) == 0.1
    sizes = dict(n_steps=24, batch_size=12, sequence_length="auto")
    model = MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env(CARTPOLE), **sizes)
    model.learn(24)
    assert model.rollout.n_steps == 24 and model.rollout.sequence_length == 12


def test_user_code_recognises_a_recurrent_algorithm_and_passes_its_state_on():
    assert isinstance(lstm_model(), RecurrentPPO)
