"""The policies: every space, memory states, and the unmodified algorithms of SB3 and sb3-contrib."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnv
from stable_baselines3.common.evaluation import evaluate_policy

from ntm_rl.agents import CnnNtmPolicy, MemoryPPO, MlpNtmPolicy, MultiInputNtmPolicy
from ntm_rl.cores.registry import core_names
from ntm_rl.errors import InputError

SMALL = dict(core_kwargs=dict(slots=5, width=3, hidden_size=8), net_arch=[8])


def constant_rate(_: float) -> float:
    return 1e-3


def make_policy(
    observation_space: spaces.Space | None = None, action_space: spaces.Space | None = None, **kwargs
) -> MlpNtmPolicy:
    torch.manual_seed(0)
    return MlpNtmPolicy(
        observation_space or spaces.Box(-1, 1, (4,)),
        action_space or spaces.Discrete(3),
        constant_rate,
        **{**SMALL, **kwargs},
    )


class RandomEnv(gym.Env):
    """Random observations and rewards in the given spaces; episodes of five steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), 1.0, False, self.steps == 5, {}


OBSERVATION_SPACES = {
    "box": spaces.Box(-1, 1, (4,)),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "discrete": spaces.Discrete(5),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(4),
    "image": spaces.Box(0, 255, (1, 36, 36), np.uint8),
    "dict": spaces.Dict({"image": spaces.Box(0, 255, (1, 36, 36), np.uint8), "card": spaces.Discrete(4)}),
}
ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "box": spaces.Box(-2, 2, (2,)),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(2),
}
PAIRS = [(name, "discrete") for name in OBSERVATION_SPACES] + [("box", name) for name in ACTION_SPACES]


@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
@pytest.mark.parametrize(("observation", "action"), PAIRS)
def test_every_space_trains_and_predicts(algorithm, observation, action):
    name = {"image": "CnnNtmPolicy", "dict": "MultiInputNtmPolicy"}.get(observation, "MlpNtmPolicy")
    env = RandomEnv(OBSERVATION_SPACES[observation], ACTION_SPACES[action])
    model = algorithm(name, env, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=SMALL, seed=0)
    before = torch.nn.utils.parameters_to_vector(model.policy.parameters()).clone()
    model.learn(16)
    after = torch.nn.utils.parameters_to_vector(model.policy.parameters())
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    obs, _ = env.reset()
    chosen, state = model.predict(obs)
    assert env.action_space.contains(chosen[()] if action == "discrete" else chosen)
    model.predict(obs, state)


@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
@pytest.mark.parametrize("core", core_names())
def test_every_core_trains_and_predicts_by_name(algorithm, core):
    kwargs = dict(core=core, core_kwargs=dict(hidden_size=8), net_arch=[8])
    model = algorithm("MlpNtmPolicy", RandomEnv(*_spaces()), n_steps=16, batch_size=16, policy_kwargs=kwargs, seed=0)
    before = [each.clone() for each in model.policy.core.parameters()]
    model.learn(32)
    after = list(model.policy.core.parameters())
    assert all(torch.isfinite(each).all() for each in after)
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    obs = model.observation_space.sample()
    _, state = model.predict(obs)
    assert state[0][..., 0].item() == 1
    model.predict(obs, state, episode_start=np.array([False]))


@pytest.mark.parametrize("core", core_names())
def test_every_core_trains_and_predicts_in_the_unmodified_recurrent_ppo(core):
    kwargs = dict(core=core, core_kwargs=dict(hidden_size=8))
    env = RandomEnv(*_spaces())
    model = RecurrentPPO("MlpNtmPolicy", env, n_steps=16, batch_size=8, n_epochs=2, policy_kwargs=kwargs, seed=0)
    before = torch.nn.utils.parameters_to_vector(model.policy.core.parameters()).clone()
    model.learn(32)
    after = torch.nn.utils.parameters_to_vector(model.policy.core.parameters())
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    state, starts = None, np.ones(1, dtype=bool)
    for _ in range(3):
        action, state = model.predict(env.observation_space.sample(), state, episode_start=starts)
        assert env.action_space.contains(action[()])
        starts = np.zeros(1, dtype=bool)


@pytest.mark.parametrize("core", core_names())
@pytest.mark.parametrize("critic", ["shared", "joint", "detached", "separate"])
def test_a_rollout_replays_to_the_same_values_and_log_probabilities(core, critic):
    """What sb3-contrib collected step by step it must find again in evaluate_actions: a PPO ratio of one."""
    kwargs = dict(core=core, core_kwargs=dict(hidden_size=8), critic=critic)
    model = RecurrentPPO("MlpNtmPolicy", RandomEnv(*_spaces()), n_steps=13, batch_size=13, policy_kwargs=kwargs, seed=1)
    _, callback = model._setup_learn(13)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 13)
    for data in model.rollout_buffer.get(13):
        values, log_prob, _ = model.policy.evaluate_actions(
            data.observations, data.actions.long().flatten(), data.lstm_states, data.episode_starts
        )
        mask = data.mask > 0
        torch.testing.assert_close(values.flatten()[mask], data.old_values[mask])
        torch.testing.assert_close(log_prob[mask], data.old_log_prob[mask])


def _spaces() -> tuple[spaces.Space, spaces.Space]:
    return spaces.Box(-1, 1, (4,)), spaces.Discrete(3)


@pytest.mark.parametrize("critic", ["shared", "joint", "detached", "separate"])
def test_sequences_equal_single_steps_with_an_episode_start_inside(critic):
    policy = make_policy(critic=critic)
    steps, batch = 6, 3
    obs = torch.randn(steps, batch, 4)
    resets = torch.zeros(steps, batch, dtype=torch.bool)
    resets[2, 1] = resets[4, 0] = True
    state = policy.initial_state(batch)
    stepped = []
    for step in range(steps):
        value_alone = policy.values(obs[step], state, resets[step])
        actions, values, log_prob, state = policy.step(obs[step], state, resets[step])
        torch.testing.assert_close(values, value_alone)
        stepped.append((actions, values, log_prob))
    actions, values, log_prob = (torch.cat(part) for part in zip(*stepped, strict=True))
    again = policy.evaluate_sequences(obs.flatten(0, 1), actions, policy.initial_state(batch), resets)
    torch.testing.assert_close(again[0], values)
    torch.testing.assert_close(again[1], log_prob)
    torch.testing.assert_close(policy.advance(obs.flatten(0, 1), policy.initial_state(batch), resets), state)


@pytest.mark.parametrize(
    ("critic", "trains_core"), [("shared", True), ("joint", True), ("detached", False), ("separate", False)]
)
def test_value_loss_reaches_the_actors_core_only_when_shared(critic, trains_core):
    policy = make_policy(critic=critic)
    obs, resets = torch.randn(4, 4), torch.zeros(4, 1, dtype=torch.bool)
    values, _, _ = policy.evaluate_sequences(obs, torch.zeros(4), policy.initial_state(1), resets)
    values.sum().backward()
    gradients = [parameter.grad for parameter in policy.core.parameters()]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in gradients) == trains_core
    if critic == "separate":
        assert any(parameter.grad is not None for parameter in policy.critic_core.parameters())


def test_no_state_means_the_learned_initial_state():
    options = {**SMALL["core_kwargs"], "learned_start": True, "memory_init": "learned"}
    policy = make_policy(core="ntm", core_kwargs=options)
    obs = np.ones(4, dtype=np.float32)
    _, state = policy.predict(obs)
    garbage = tuple(np.full_like(part, 0.7) for part in state)
    _, restarted = policy.predict(obs, garbage, episode_start=np.array([True]))
    np.testing.assert_array_equal(state[0], restarted[0])


def test_plain_ppo_is_refused_with_the_classes_that_can():
    model = PPO(MlpNtmPolicy, IdentityEnv(2), n_steps=8, batch_size=8, policy_kwargs=SMALL)
    with pytest.raises(InputError, match=r"MlpNtmPolicy.*MemoryPPO or sb3_contrib.RecurrentPPO"):
        model.learn(8)


def test_a_policy_saved_alone_loads_alone(tmp_path):
    policy = make_policy(core="gru", core_kwargs=dict(hidden_size=7), critic="separate", net_arch=dict(pi=[5], vf=[6]))
    policy.save(tmp_path / "policy.pt")
    loaded = MlpNtmPolicy.load(tmp_path / "policy.pt")
    for (name, expected), (_, found) in zip(policy.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(expected, found), name


def test_no_parameter_is_left_out_of_the_optimizer_or_belongs_to_an_unused_lstm():
    policy = make_policy(critic="separate")
    optimised = {id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in policy.parameters()}
    assert not any(isinstance(module, torch.nn.LSTM) for module in policy.modules())


def test_image_policy_reads_images_through_a_cnn():
    policy = CnnNtmPolicy(OBSERVATION_SPACES["image"], spaces.Discrete(2), constant_rate, **SMALL)
    assert any(isinstance(module, torch.nn.Conv2d) for module in policy.modules())
    model = MemoryPPO(CnnNtmPolicy, FakeImageEnv(36, 36), n_steps=8, batch_size=8, policy_kwargs=SMALL)
    model.learn(8)
    evaluate_policy(model, model.get_env(), n_eval_episodes=1)


def test_dict_policy_keeps_feature_extractors_apart_when_asked():
    policy = MultiInputNtmPolicy(
        OBSERVATION_SPACES["dict"],
        spaces.Discrete(2),
        constant_rate,
        critic="separate",
        share_features_extractor=False,
        **SMALL,
    )
    assert policy.pi_features_extractor is not policy.vf_features_extractor
    obs = {"image": torch.zeros(2, 1, 36, 36, dtype=torch.uint8), "card": torch.tensor([1, 2])}
    actions, values, _, _ = policy.step(obs, policy.initial_state(2), torch.ones(2, dtype=torch.bool))
    assert actions.shape == values.shape == (2,)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(core="ntn"), r"core = 'ntn': unknown core; valid are .*Did you mean ntm\?"),
        (dict(core_kwargs=dict(slotz=4)), r"slotz: core 'ntm_block' has no such option.*Did you mean slots\?"),
        (dict(core_kwargs=dict(slots=0)), "slots = 0: must be an integer of at least 3"),
        (dict(critic="shard"), r"critic = 'shard': must be one of .*Did you mean shared\?"),
        (dict(share_features_extractor=False), "share_features_extractor = False.*critic = 'separate'"),
    ],
)
def test_bad_options_name_key_value_and_what_is_valid(kwargs, message):
    with pytest.raises(InputError, match=message):
        make_policy(**kwargs)
