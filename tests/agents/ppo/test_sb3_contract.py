"""MemoryPPO as a replacement of RecurrentPPO: arguments, sizes, files, predict, environments, names, callbacks."""

import inspect
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnvWrapper

from ntm_rl.agents import CnnNtmPolicy, MemoryPPO, MlpNtmPolicy, MultiInputNtmPolicy
from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.errors import InputError

TINY = dict(core="lstm", core_kwargs=dict(hidden_size=6), net_arch=[6])
CARTPOLE = "CartPole-v1"


def make_model(env=CARTPOLE, algorithm=MemoryPPO, **kwargs):
    return algorithm("MlpNtmPolicy", env, **{"policy_kwargs": TINY, "seed": 0, "device": "cpu", **kwargs})


# Arguments and sizes.


def test_positional_arguments_mean_what_they_mean_in_recurrent_ppo():
    theirs = list(inspect.signature(RecurrentPPO.__init__).parameters)
    ours = inspect.signature(MemoryPPO.__init__).parameters
    assert [name for name, each in ours.items() if each.kind is not each.KEYWORD_ONLY] == theirs
    assert list(inspect.signature(PPO.__init__).parameters)[:16] == theirs[:16]
    model = MemoryPPO("MlpNtmPolicy", CARTPOLE, 1e-3, 256, 64, 10, 0.9)
    assert (model.n_steps, model.batch_size, model.n_epochs, model.gamma) == (256, 64, 10, 0.9)


@pytest.mark.parametrize(
    ("n_steps", "n_envs", "batch_size", "sequence_length", "lengths", "sizes"),
    [
        (128, 1, 128, None, [128], [128]),
        (64, 1, 128, None, [64], [64]),  # the default batch size is more than the rollout
        (1, 3, 128, None, [1], [3]),
        (256, 1, 64, None, [64], [64] * 4),
        (16, 2, None, None, [16], [32]),
        (16, 4, 8, 4, [4], [8] * 8),
        (10, 2, 20, 64, [10], [20]),  # a sequence is at most the rollout
        (np.int64(16), 1, np.int32(8), np.int16(8), [8], [8, 8]),
    ],
)
def test_sizes_that_fit_give_no_warning(n_steps, n_envs, batch_size, sequence_length, lengths, sizes):
    sizes_given = dict(n_steps=n_steps, batch_size=batch_size, sequence_length=sequence_length)
    model = make_model(make_vec_env(CARTPOLE, n_envs), **sizes_given)
    assert found_sizes(model) == (lengths, sizes)


@pytest.mark.parametrize(
    ("n_steps", "n_envs", "batch_size", "sequence_length", "lengths", "sizes", "told"),
    [
        (127, 1, 64, None, [64, 63], [64, 63], "2 mini-batches of 64 or 63"),
        (100, 3, 128, None, [100], [100] * 3, "3 mini-batches of 100"),
        (16, 3, 32, 8, [8], [32, 16], "2 mini-batches of 32 or 16"),
        (16, 1, 12, 8, [8], [8, 8], "2 mini-batches of 8"),
        (16, 2, 5, 8, [8], [8] * 4, "4 mini-batches of 8"),
        (16, 2, 16, 5, [5, 1], [15, 15, 2], "3 mini-batches of 15 or 2"),
    ],
)
def test_sizes_that_do_not_fit_train_with_a_warning(n_steps, n_envs, batch_size, sequence_length, lengths, sizes, told):
    sizes_given = dict(n_steps=n_steps, batch_size=batch_size, sequence_length=sequence_length)
    with pytest.warns(UserWarning, match=rf"mini-batch size of {batch_size}, .*there will be {told} transitions"):
        model = make_model(make_vec_env(CARTPOLE, n_envs), **sizes_given)
    assert found_sizes(model) == (lengths, sizes)
    model.learn(1)
    assert model.num_timesteps == n_steps * n_envs


def found_sizes(model: MemoryPPO) -> tuple[list[int], list[int]]:
    """The lengths of sequences and the sizes of minibatches that a rollout really gives."""
    batches = list(model.rollout.minibatches(model._minibatch_size()))
    return list(dict.fromkeys(len(batch.resets) for batch in batches)), [batch.resets.numel() for batch in batches]


# Files.


def test_an_agent_of_many_environments_loads_with_one_and_one_of_one_with_many(tmp_path):
    make_model(make_vec_env(CARTPOLE, 8), sequence_length=32, batch_size=512).save(tmp_path / "model.zip")
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
    theirs = make_model(algorithm=RecurrentPPO, n_steps=n_steps, batch_size=batch_size)
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
    make_model(n_steps=16, learning_rate=lambda progress: 1e-3 * progress).save(tmp_path / "model.zip")
    objects = {"learning_rate": 1e-4, "lr_schedule": lambda _: 1e-4, "clip_range": lambda _: 0.1}
    model = MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env(CARTPOLE), custom_objects=objects)
    model.learn(16)
    assert model.policy.optimizer.param_groups[0]["lr"] == 1e-4 and model.clip_range(1.0) == 0.1
    model = MemoryPPO.load(tmp_path / "model.zip", env=make_vec_env(CARTPOLE), n_steps=24, batch_size=12)
    model.learn(24)
    assert model.rollout.n_steps == 24 and model.rollout.sequence_length == 12


# Predict.


def test_user_code_recognises_a_recurrent_algorithm_and_passes_its_state_on():
    assert isinstance(make_model(), RecurrentPPO)


@pytest.mark.parametrize("start", [True, np.True_, [True], (1,), np.ones(1), np.ones((1, 1), np.uint8), 1])
def test_an_episode_start_may_be_a_bool_of_any_type(start):
    model = make_model()
    observation = np.ones(4, np.float32)
    first, state = model.predict(observation, deterministic=True)
    _, later = model.predict(observation, state, deterministic=True)
    again, restarted = model.predict(observation, later, episode_start=start, deterministic=True)
    assert first.shape == again.shape == ()
    np.testing.assert_array_equal(restarted[0], state[0])
    assert not np.array_equal(later[0], state[0])


@pytest.mark.parametrize("start", [False, None, [False], 0.0])
def test_an_episode_continues_without_an_episode_start(start):
    model = make_model()
    _, state = model.predict(np.ones(4, np.float32))
    expected = model.predict(np.ones(4, np.float32), state, episode_start=np.zeros(1, dtype=bool))[1]
    found = model.predict([1.0, 1.0, 1.0, 1.0], list(state), episode_start=start)[1]
    np.testing.assert_array_equal(expected[0], found[0])


def test_one_bool_applies_to_the_whole_batch_and_a_list_to_each_observation():
    model = make_model()
    batch = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    actions, state = model.predict(batch)
    assert actions.shape == (3,) and state[0].shape == (1, 3, model.policy.core.state_size)
    _, later = model.predict(batch, state)
    np.testing.assert_allclose(model.predict(batch, later, episode_start=True)[1][0], state[0], atol=1e-6)
    mixed = model.predict(batch, state, episode_start=[True, False, False])[1][0]
    np.testing.assert_allclose(mixed[:, 0], state[0][:, 0], atol=1e-6)
    np.testing.assert_allclose(mixed[:, 1:], later[0][:, 1:], atol=1e-6)


def test_states_and_starts_of_another_number_of_observations_are_refused():
    model = make_model()
    batch = np.zeros((3, 4), np.float32)
    _, state = model.predict(batch[:2])
    with pytest.raises(
        InputError, match=r"state of shapes \[1, 2, \d+\] and .*: must be two of \[1, 3, \d+\] for 3 observation"
    ):
        model.predict(batch, state)
    with pytest.raises(InputError, match="episode_start of 2 values: must be one bool, or one for each of 3"):
        model.predict(batch, episode_start=[True, False])


# Environments.


class Recast(VecEnvWrapper):
    """Gives dones and rewards in other types and shapes."""

    def __init__(self, venv, dones, rewards=lambda rewards: rewards):
        super().__init__(venv)
        self.dones, self.rewards = dones, rewards

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, self.rewards(rewards), self.dones(dones), infos


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int64, object, list])
def test_dones_of_other_types_train_as_booleans_do(kind):
    def trained(dones) -> torch.Tensor:
        model = make_model(Recast(make_vec_env(CARTPOLE, 2, seed=0), dones), n_steps=32, batch_size=64).learn(128)
        return torch.nn.utils.parameters_to_vector(model.policy.parameters())

    changed = trained(list if kind is list else lambda dones: dones.astype(kind))
    assert torch.equal(changed, trained(lambda dones: dones))


@pytest.mark.parametrize(
    "rewards", [lambda r: r.astype(np.float64), lambda r: r.astype(np.int64), list, lambda r: r[:, None]]
)
def test_rewards_of_other_types_and_shapes_are_kept_one_for_each_environment(rewards):
    env = Recast(make_vec_env(CARTPOLE, 2, seed=0), lambda dones: dones, rewards)
    model = make_model(env, n_steps=8, batch_size=16).learn(16)
    np.testing.assert_array_equal(model.rollout.rewards, np.ones((8, 2), np.float32))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_vector_environments_are_trained_in_as_given(mode):
    envs = gym.make_vec(CARTPOLE, 2, vectorization_mode=mode)
    model = make_model(envs, n_steps=64, batch_size=64).learn(128)
    assert isinstance(model.get_env(), VectorEnvAdapter) and model.get_env().envs is envs
    assert 0 < len(model.ep_info_buffer) <= 128 // 8
    model.get_env().close()


# Names.


@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
@pytest.mark.parametrize(
    ("options", "equivalent"),
    [
        (dict(lstm_hidden_size=64), r"core='lstm', core_kwargs=dict\(hidden_size=64\)\)$"),
        (dict(n_lstm_layers=2), r"core_kwargs=dict\(layers=2\)"),
        (dict(shared_lstm=True, enable_critic_lstm=False), "critic='detached'"),
        (dict(enable_critic_lstm=True), "critic='separate'"),
        (dict(enable_critic_lstm=False), "a critic without memory does not exist here; critic must be 'shared'"),
        (dict(lstm_kwargs=dict(dropout=0.1)), "`ntm-rl list cores` shows the core_kwargs"),
    ],
)
def test_options_of_lstm_policies_are_answered_with_our_equivalents(algorithm, options, equivalent):
    key = next(iter(options))
    with pytest.raises(
        InputError, match=rf"{key} = .*: for sb3-contrib's LSTM policies; .*policy_kwargs=.*{equivalent}"
    ):
        make_model(algorithm=algorithm, policy_kwargs=options)


def test_our_equivalents_of_lstm_options_build_that_lstm():
    options = dict(core="lstm", core_kwargs=dict(hidden_size=64, layers=2), critic="separate")
    policy = make_model(policy_kwargs=options).policy
    assert policy.core.network.hidden_size == policy.critic_core.network.hidden_size == 64
    assert policy.core.network.num_layers == 2


@pytest.mark.parametrize("prefix", ["Mlp", "Cnn", "MultiInput"])
@pytest.mark.parametrize("suffix", ["Policy", "LstmPolicy"])
def test_names_of_sb3s_policies_are_answered_with_ours(prefix, suffix):
    with pytest.raises(InputError, match=rf"policy = '{prefix}{suffix}'.*use '{prefix}NtmPolicy'.*core='lstm'"):
        MemoryPPO(prefix + suffix, CARTPOLE)


def test_an_unknown_policy_is_answered_with_the_nearest_and_an_alias_of_the_users_own_works(monkeypatch):
    with pytest.raises(InputError, match=r"policy = 'MlpNtm': unknown policy; .*Did you mean MlpNtmPolicy\?"):
        MemoryPPO("MlpNtm", CARTPOLE)

    class OwnLstmPolicy(MlpNtmPolicy):
        pass

    monkeypatch.setitem(MemoryPPO.policy_aliases, "OwnLstmPolicy", OwnLstmPolicy)
    assert type(MemoryPPO("OwnLstmPolicy", CARTPOLE).policy) is OwnLstmPolicy


@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
@pytest.mark.parametrize("policy", ["MlpNtmPolicy", "CnnNtmPolicy"])
def test_dict_observations_are_answered_with_the_policy_that_reads_them(algorithm, policy):
    message = f"You must use `MultiInputNtmPolicy` when working with dict observation space, not {policy}"
    with pytest.raises(InputError, match=message):
        algorithm(policy, SimpleMultiObsEnv(random_start=False))


@pytest.mark.parametrize(
    ("policy", "space", "message"),
    [
        (MultiInputNtmPolicy, spaces.Box(-1, 1, (3,)), "MultiInputNtmPolicy: is for Dict observations; use MlpNtm"),
        (CnnNtmPolicy, spaces.Box(-1, 1, (3,)), "CnnNtmPolicy: is for images; use MlpNtmPolicy"),
        (CnnNtmPolicy, spaces.Discrete(3), "CnnNtmPolicy: is for images; use MlpNtmPolicy"),
    ],
)
def test_observations_of_another_kind_are_answered_with_the_policy_that_reads_them(policy, space, message):
    with pytest.raises(InputError, match=message):
        policy(space, spaces.Discrete(2), lambda _: 1e-3)


class Broken(gym.Env):
    """Shows a number that is not finite at its tenth step."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.full(2, np.nan if self.steps == 10 else 0, np.float32), 0.0, False, False, {}


def test_recurrent_ppo_raises_at_an_observation_that_is_not_a_number_as_with_its_own_policies():
    for policy in ("MlpNtmPolicy", "MlpLstmPolicy"):
        model = RecurrentPPO(policy, Broken(), n_steps=64, seed=0)
        with pytest.raises(ValueError, match="nan"):
            model.learn(64)
        assert model.num_timesteps == 10


# Callbacks.


class Reader(BaseCallback):
    """Keeps the locals of every step and copies of what the buffer shows at the end of a rollout."""

    def __init__(self):
        super().__init__()
        self.steps, self.blocks, self.positions = [], {}, []

    def _on_step(self) -> bool:
        self.steps.append(dict(self.locals))
        self.positions.append((self.model.rollout_buffer.pos, self.locals["n_steps"], self.model.rollout_buffer.full))
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        assert buffer is self.locals["rollout_buffer"] and buffer.full and buffer.pos == buffer.size() == 16
        self.blocks = {name: np.copy(getattr(buffer, name)) for name in BLOCKS}
        self.sizes = buffer.buffer_size, buffer.n_envs, buffer.obs_shape, buffer.action_dim, buffer.gamma
        self.last_values = self.locals["values"]


BLOCKS = ["observations", "actions", "rewards", "values", "log_probs", "advantages", "returns", "episode_starts"]


@pytest.mark.parametrize("env_id", [CARTPOLE, "Pendulum-v1"])
def test_callbacks_read_the_locals_and_the_buffer_of_recurrent_ppo(env_id):
    seen = {}
    for algorithm in (RecurrentPPO, MemoryPPO):
        seen[algorithm] = Reader()
        make_model(make_vec_env(env_id, 2, seed=0), algorithm, n_steps=16, batch_size=32).learn(32, seen[algorithm])
    theirs, ours = seen[RecurrentPPO], seen[MemoryPPO]
    assert set(theirs.steps[0]) - set(ours.steps[0]) == {"lstm_states"}  # ours is one tensor, `state`
    for key in ("actions", "clipped_actions", "rewards", "dones", "new_obs", "obs_tensor", "values", "log_probs"):
        their, our = theirs.steps[3][key], ours.steps[3][key]
        assert type(their) is type(our) and their.shape == our.shape and their.dtype == our.dtype, key
    assert ours.positions == theirs.positions
    assert ours.sizes == theirs.sizes
    assert ours.last_values.shape == (2, 1)
    for name in BLOCKS:
        assert ours.blocks[name].shape == theirs.blocks[name].shape, name
    for index, step in enumerate(ours.steps):
        np.testing.assert_array_equal(ours.blocks["actions"][index], step["actions"].reshape(2, 1))
        np.testing.assert_array_equal(ours.blocks["observations"][index], step["obs_tensor"].numpy())
        np.testing.assert_array_equal(ours.blocks["values"][index], step["values"].numpy().ravel())
        np.testing.assert_array_equal(ours.blocks["episode_starts"][index], step["episode_starts"].numpy())
    np.testing.assert_allclose(
        ours.blocks["returns"], ours.blocks["advantages"] + ours.blocks["values"], rtol=1e-5, atol=1e-5
    )


def test_rewards_that_a_callback_changes_are_learned_from_as_in_sb3():
    class Bonus(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = self.model.rollout_buffer
            buffer.rewards += 1.0
            buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
            self.found = buffer.advantages.copy(), buffer.returns.copy()
            peer = RolloutBuffer(8, self.model.observation_space, self.model.action_space, "cpu", 0.95, 0.99, 2)
            peer.rewards, peer.values = buffer.rewards, buffer.values
            peer.episode_starts = buffer.episode_starts
            peer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])
            self.expected = peer.advantages, peer.returns

    callback = Bonus()
    model = make_model(make_vec_env(CARTPOLE, 2, seed=0), n_steps=8, batch_size=16)
    model.learn(16, callback)
    np.testing.assert_array_equal(model.rollout.rewards, 2)
    for expected, found in zip(callback.expected, callback.found, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_buffer_lists_its_attributes_for_an_unknown_name():
    buffer = make_model(n_steps=8).rollout_buffer
    with pytest.raises(AttributeError, match=r"rollout_buffer.hidden_states_pi: .*observations, actions, rewards"):
        buffer.hidden_states_pi  # noqa: B018
    with pytest.raises(AttributeError, match=r"rollout_buffer.pos"):
        buffer.pos = 3
    buffer.advantages = np.full((8, 1), 2.0)
    assert buffer.rollout.advantages.tolist() == [[2.0]] * 8


def test_a_callback_that_stops_inside_a_rollout_loses_nothing():
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            self.seen = self.locals["new_obs"].copy(), self.locals["dones"].copy(), self.locals["state"].clone()
            return not self.locals["dones"].any()

    stop, model = Stop(), make_model(make_vec_env(CARTPOLE, 2, seed=0), n_steps=64, batch_size=64)
    model.learn(6400, stop)
    observations, dones, state = stop.seen
    assert dones.any() and not dones.all() and model.num_timesteps < 128
    assert len(model.ep_info_buffer) == 1
    np.testing.assert_array_equal(model._last_obs, observations)
    np.testing.assert_array_equal(model._last_episode_starts, dones)
    assert torch.equal(model.memory_state, state)
    model.learn(64, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.rollout.observations[0].numpy(), observations)
    assert model.rollout.resets[0].tolist() == dones.tolist() and not model.rollout.resets[1].any()
    assert torch.equal(model.rollout.states[0], state)


class Trial(gym.Wrapper):
    """Five episodes of a monitored environment as one."""

    def reset(self, **kwargs):
        self.ended = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation, _ = self.env.reset()
            self.ended += 1
        return observation, reward, self.ended >= 5, False, info


def test_episodes_inside_a_trial_are_counted():
    model = make_model(Trial(Monitor(gym.make(CARTPOLE))), n_steps=128, stats_window_size=999)
    model.learn(512)
    episodes = [episode["l"] for episode in model.ep_info_buffer]
    assert sum(episodes) <= 512 < sum(episodes) + 100 and len(episodes) > 5
