"""Actions and observations between policy, rollout and environment: every space, every critic, every wrapper."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ntm_rl.agents import MemoryPPO, MlpNtmPolicy
from ntm_rl.agents.policy.actions import ActionConverter
from ntm_rl.envs import PreviousStep
from ntm_rl.errors import InputError

# Bounds and pictures of all kinds are the subject here.
pytestmark = pytest.mark.filterwarnings("ignore::ntm_rl.agents.policy.description.SuspiciousSpaces")

TINY = dict(core="lstm", core_kwargs=dict(hidden_size=6), net_arch=[6])
SIZES = dict(n_steps=10, batch_size=20, seed=0, device="cpu")
ACTION_SPACES = {
    "()": spaces.Box(-1, 1, ()),
    "(1,)": spaces.Box(-1, 1, (1,)),
    "(1, 1)": spaces.Box(-1, 1, (1, 1)),
    "(2, 2)": spaces.Box(-1, 1, (2, 2)),
    "(1, 3)": spaces.Box(-1, 1, (1, 3)),
    "float64": spaces.Box(-2, 2, (2,), np.float64),
    "float16": spaces.Box(-2, 2, (2,), np.float16),
    "int32": spaces.Box(-5, 5, (2,), np.int32),
    "int64, all of it": spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64),
    "uint8": spaces.Box(0, 10, (2,), np.uint8),
    "int8": spaces.Box(-3, 3, (2, 1), np.int8),
    "bool": spaces.Box(0, 1, (3,), np.bool_),
    "discrete": spaces.Discrete(3),
    "discrete from 5": spaces.Discrete(3, start=5),
    "discrete int8": spaces.Discrete(3, dtype=np.int8),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multidiscrete from 1": spaces.MultiDiscrete([3, 2], start=[1, -1]),
    "multibinary": spaces.MultiBinary(3),
}
BOXES = [name for name, space in ACTION_SPACES.items() if isinstance(space, spaces.Box)]
OBSERVATION_SPACES = {
    "()": spaces.Box(-1, 1, ()),
    "(1,)": spaces.Box(-1, 1, (1,)),
    "(2, 2)": spaces.Box(-1, 1, (2, 2)),
    "float64": spaces.Box(-1, 1, (3,), np.float64),
    "float16": spaces.Box(-1, 1, (3,), np.float16),
    "int64": spaces.Box(0, 1000, (4,), np.int64),
    "int8": spaces.Box(-100, 100, (4,), np.int8),
    "uint8": spaces.Box(0, 255, (8,), np.uint8),
    "uint16": spaces.Box(0, 65535, (4,), np.uint16),
    "bool": spaces.Box(0, 1, (3,), np.bool_),
    "dict": spaces.Dict(hp=spaces.Box(0, 9, (), np.int32), place=spaces.Box(-1, 1, (2,), np.float64)),
}
UNNORMALIZED = {
    "discrete": spaces.Discrete(5),
    "multidiscrete": spaces.MultiDiscrete([2, 3], dtype=np.uint16),
    "multibinary": spaces.MultiBinary([2, 2]),
    "mixed dict": spaces.Dict(card=spaces.Discrete(4), hp=spaces.Box(0, 9, ())),
}


class Sampler(gym.Env):
    """Samples observations and rewards; takes only elements of its action space; episodes are cut after 4 steps."""

    def __init__(self, action_space: spaces.Space | None = None, observation_space: spaces.Space | None = None):
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.observation_space = spaces.Box(-1, 1, (2,)) if observation_space is None else observation_space
        self.seen: list = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.seen.append(np.asarray(action))
        assert self.action_space.contains(np.asarray(action)), (action, self.action_space)
        self.steps += 1
        return self.observation_space.sample(), self.np_random.normal(), False, self.steps == 4, {}


def make_model(env, algorithm=MemoryPPO, **kwargs):
    options = {**SIZES, **kwargs, "policy_kwargs": {**TINY, **kwargs.get("policy_kwargs", {})}}
    policy = "MultiInputNtmPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpNtmPolicy"
    return algorithm(policy, env, **options)


def collect(model) -> None:
    _, callback = model._setup_learn(1)
    model.set_logger(Logger(None, []))
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)


def require_the_first_minibatch_to_be_the_rollout(model: MemoryPPO) -> None:
    for _ in range(2):  # the second rollout begins in the middle of an episode
        collect(model)
    count = 0
    for batch in model.rollout.minibatches(7):
        values, log_probs, _ = model.policy.evaluate_sequences(
            batch.observations, batch.actions, batch.states, batch.resets
        )
        assert log_probs.shape == batch.old_log_probs.shape
        torch.testing.assert_close(values, batch.old_values)
        torch.testing.assert_close(log_probs, batch.old_log_probs)
        count += len(values)
    assert count == model.n_steps * model.n_envs


WRAPPERS = {
    "plain": lambda make: DummyVecEnv([make] * 2),
    "previous step": lambda make: DummyVecEnv([lambda: PreviousStep(make())] * 2),
    "normalised": lambda make: VecNormalize(DummyVecEnv([make] * 2)),
}


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")  # the last chunk has 2 of 4 steps
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("critic", ["shared", "detached", "separate"])
@pytest.mark.parametrize("name", ACTION_SPACES)
def test_the_first_minibatch_finds_the_rollouts_own_values_and_probabilities(name, critic, wrapper):
    env = WRAPPERS[wrapper](lambda: Sampler(ACTION_SPACES[name]))
    model = make_model(env, sequence_length=4, policy_kwargs=dict(critic=critic))
    require_the_first_minibatch_to_be_the_rollout(model)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("name", BOXES)
def test_the_first_minibatch_is_the_rollout_with_state_dependent_exploration(name, squash):
    model = make_model(
        DummyVecEnv([lambda: Sampler(ACTION_SPACES[name])] * 2),
        use_sde=True,
        sde_sample_freq=3,
        policy_kwargs=dict(squash_output=squash),
    )
    require_the_first_minibatch_to_be_the_rollout(model)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", OBSERVATION_SPACES | UNNORMALIZED)
def test_the_first_minibatch_is_the_rollout_over_every_observation_space(name, normalised):
    space = (OBSERVATION_SPACES | UNNORMALIZED)[name]
    if normalised and name in UNNORMALIZED:
        pytest.skip("VecNormalize refuses it")
    env = DummyVecEnv([lambda: Sampler(observation_space=space)] * 2)
    require_the_first_minibatch_to_be_the_rollout(make_model(VecNormalize(env) if normalised else env))


# RecurrentPPO's own buffer has the space's dtype: what it keeps of such actions is another than was sampled.
REPLAYED = [
    name for name in ACTION_SPACES if name not in BOXES or ACTION_SPACES[name].dtype in (np.float32, np.float64)
]


@pytest.mark.parametrize("name", REPLAYED)
def test_recurrent_ppo_replays_its_rollout_over_every_action_space(name):
    model = make_model(DummyVecEnv([lambda: Lenient(ACTION_SPACES[name])] * 2), RecurrentPPO)
    collect(model)
    for data in model.rollout_buffer.get(20):
        actions = data.actions.long().flatten() if name.startswith("discrete") else data.actions
        values, log_prob, _ = model.policy.evaluate_actions(
            data.observations, actions, data.lstm_states, data.episode_starts
        )
        mask = data.mask > 0
        torch.testing.assert_close(values.flatten()[mask], data.old_values[mask])
        torch.testing.assert_close(log_prob[mask], data.old_log_prob[mask])


class Lenient(Sampler):
    """Asks of actions only their shape and their bounds: RecurrentPPO's have its own dtypes."""

    def step(self, action):
        action = np.asarray(action)
        self.action_space, strict = spaces.Discrete(1), self.action_space
        try:
            assert strict.contains(action.astype(strict.dtype))
            return super().step(np.int64(0))
        finally:
            self.action_space = strict


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_training_and_prediction_give_the_environment_elements_of_its_space(name):
    env = Sampler(ACTION_SPACES[name])
    model = make_model(DummyVecEnv([lambda: env])).learn(20)
    assert len(env.seen) == 20
    for deterministic in (True, False):
        one, _ = model.predict(model.observation_space.sample(), deterministic=deterministic)
        three, _ = model.predict(np.zeros((3, 2), np.float32), deterministic=deterministic)
        assert env.action_space.contains(one[()] if isinstance(env.action_space, spaces.Discrete) else np.asarray(one))
        assert three.shape == (3, *env.action_space.shape) and three.dtype == env.action_space.dtype


@pytest.mark.parametrize(
    ("space", "squashed", "sampled", "expected"),
    [
        (spaces.Box(-1, 2, (2, 2)), False, [[-3, 0.5, 1.5, 9]], [[[-1, 0.5], [1.5, 2]]]),
        (spaces.Box(-1, 3, (2,)), True, [[-1, 0.5], [0, 1]], [[-1, 2], [1, 3]]),
        (spaces.Box(-5, 5, (3,), np.int32), False, [[-2.6, 0.4, 7]], [[-3, 0, 5]]),
        (spaces.Box(0, 10, (3,), np.uint8), False, [[-2.6, 3.7, 300]], [[0, 4, 10]]),
        (spaces.Box(0, 10, (2,), np.uint8), True, [[-1, 0.39]], [[0, 7]]),
        (spaces.Box(0, 1, (3,), np.bool_), False, [[-2, 0.4, 0.6]], [[False, False, True]]),
        (spaces.Box(-9, 9, ()), False, [[2.5], [-10]], [2.5, -9]),
        (spaces.Box(0, 2**63 - 1, (1,), np.int64), False, [[1e30]], [[2**63 - 1024]]),
        (spaces.Discrete(3, start=-1), False, [0, 1, 2], [-1, 0, 1]),
        (spaces.MultiDiscrete([2, 2], start=[1, 4]), False, [[0, 1]], [[1, 5]]),
        (spaces.MultiBinary(2), False, [[0.0, 1.0]], [[0, 1]]),
    ],
)
def test_samples_become_elements_of_the_space(space, squashed, sampled, expected):
    array = np.array(sampled, dtype=np.int64 if isinstance(sampled[0], int) else np.float32)
    found = ActionConverter(space, squashed)(array)
    assert found.dtype == space.dtype
    np.testing.assert_array_equal(found, np.array(expected))


@pytest.mark.parametrize(
    ("space", "flat"),
    [
        (spaces.MultiBinary([2, 3]), r"MultiBinary\(6\)"),
        (spaces.MultiDiscrete([[2, 2], [3, 3]]), "MultiDiscrete"),
    ],
)
@pytest.mark.parametrize("algorithm", [MemoryPPO, RecurrentPPO])
def test_discrete_actions_of_more_dimensions_are_refused_with_the_flat_space(algorithm, space, flat):
    with pytest.raises(InputError, match=rf"action space = .*must have one dimension; flatten it .*{flat}"):
        make_model(DummyVecEnv([lambda: Sampler(space)]), algorithm)


def test_the_size_of_binary_actions_must_be_a_number():
    with pytest.raises(InputError, match=r"MultiBinary\(\(3,\)\): its size must be a number; write MultiBinary\(3\)"):
        make_model(DummyVecEnv([lambda: Sampler(spaces.MultiBinary([3]))]))


def test_what_the_distribution_sampled_is_stored_and_not_what_the_environment_got():
    env = Sampler(spaces.Box(-1, 1, (2,), np.int8))
    model = make_model(DummyVecEnv([lambda: env]))
    collect(model)
    stored = model.rollout.actions[:, 0].numpy()
    assert stored.dtype == np.float32 and (stored != np.rint(stored)).all()
    np.testing.assert_array_equal(np.rint(stored.clip(-1, 1)), np.array(env.seen))


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_normalised_integers_are_seen_and_stored_as_the_floats_that_they_are(kind):
    env = VecNormalize(DummyVecEnv([lambda: Sampler(observation_space=spaces.Box(0, 255, (8,), kind))] * 2))
    model = make_model(env)
    seen, step = [], model.policy.step
    model.policy.step = lambda obs, *rest: seen.append(obs.clone()) or step(obs, *rest)
    arrived, old = [], env.normalize_obs
    env.normalize_obs = lambda obs: arrived.append(old(obs)) or arrived[-1]
    collect(model)
    batches = [each for each in arrived if each.shape == (2, 8)]  # the others are last observations of episodes
    for step_number in range(10):
        np.testing.assert_array_equal(model.rollout.observations[step_number].numpy(), batches[step_number])
        np.testing.assert_array_equal(seen[step_number].numpy(), batches[step_number])
    assert len(np.unique(model.rollout.observations.numpy())) > 50


class Bar(gym.Env):
    """Shows one number, as a bare number, and is cut after 3 steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space, value):
        self.observation_space, self.value = space, value

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.value, {}

    def step(self, action):
        self.steps += 1
        return self.value, 0.0, False, self.steps == 3, {}


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Box(0, 1, ()), np.array(0.5, np.float32)),
        (spaces.Box(0, 1, ()), 0.5),
        (spaces.Box(0, 1, (1,)), np.float32(0.5)),
        (spaces.Box(0, 1, (1,)), 0.5),
        (spaces.Box(0, 9, (1,), np.int64), 7),
        (spaces.Dict(hp=spaces.Box(0, 1, ())), {"hp": np.array(0.5, np.float32)}),
        (spaces.Dict(hp=spaces.Box(0, 1, (1,))), {"hp": 0.5}),
    ],
)
def test_bare_numbers_bootstrap_as_the_same_numbers_in_the_spaces_shape(space, value):
    model = make_model(DummyVecEnv([lambda: Bar(space, value)]), gamma=0.9)
    collect(model)
    policy, no = model.policy, torch.zeros(1, dtype=torch.bool)
    number = value["hp"] if isinstance(value, dict) else value
    shape = (1, *(space["hp"] if isinstance(value, dict) else space).shape)
    observation = torch.full(shape, float(number))
    observation = {"hp": observation} if isinstance(value, dict) else observation
    with torch.no_grad():
        state = policy.initial_state(1)
        for _ in range(3):
            state = policy.advance(observation, state, no.unsqueeze(0))
        bonus = 0.9 * policy.values(observation, state, no).item()
    assert abs(bonus) > 1e-6
    np.testing.assert_allclose(
        model.rollout.rewards[:, 0], [bonus if step % 3 == 2 else 0 for step in range(10)], rtol=1e-5
    )
    model.predict(value)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 2], start=[0, 1]), spaces.MultiDiscrete([[2, 2]])]
)
def test_observations_that_do_not_count_from_zero_are_refused_with_a_wrapper(space):
    with pytest.raises(InputError, match=r"observation space = .*gymnasium.wrappers.FlattenObservation"):
        MlpNtmPolicy(space, spaces.Discrete(2), lambda _: 1e-3)
