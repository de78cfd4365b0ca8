"""Arguments of MemoryPPO, its policies and `predict`: wrong values are one clear error."""

import inspect
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ntm_rl.agents import MemoryPPO, MlpNtmPolicy, MultiInputNtmPolicy
from ntm_rl.agents.runs.nonfinite import NonFiniteError
from ntm_rl.errors import InputError
from small_models import TINY_POLICY, lstm_model

CARTPOLE = "CartPole-v1"

make_model = partial(lstm_model, n_steps=8)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("learning_rate", "lin_3e-4", r"LinearSchedule\(3e-4, 0, 1\)"),
        ("learning_rate", -1e-3, "must be a number of at least 0, or a function of the remaining progress"),
        ("learning_rate", float("nan"), "must be a number of at least 0"),
        ("clip_range", None, "must be a number above 0, or a function"),
        ("clip_range", "lin_0.2", r"LinearSchedule\(0.2, 0, 1\)"),
        ("clip_range_vf", 0, "must be a number above 0, or None"),
        ("gamma", 1.5, "must be a number from 0 to 1"),
        ("gamma", "0.9", "must be a number from 0 to 1"),
        ("gae_lambda", -0.1, "must be a number from 0 to 1"),
        ("ent_coef", "auto", "must be a number"),
        ("vf_coef", None, "must be a number of at least 0"),
        ("max_grad_norm", None, r"must be a number above 0; float\('inf'\) disables clipping"),
        ("target_kl", 0.0, "must be a number above 0, or None"),
        ("n_steps", True, "must be an integer of at least 1"),
        ("n_steps", None, "must be an integer of at least 1, or 'auto'"),
        ("batch_size", "64", "must be an integer of at least 1, or 'auto', or None"),
        ("sequence_length", "all", "must be an integer of at least 1, or 'auto', or None"),
        ("sde_sample_freq", 0.5, "must be an integer of at least -1"),
        ("schedule_at", "begin", "must be one of start, end"),
        ("normalize_advantage", "False", "must be True or False"),
        ("recompute_states", 2, "must be True or False"),
        ("seed", 1.5, "must be an integer from 0 to 4294967295, or None"),
        ("seed", -1, "must be an integer from 0"),
        ("seed", 2**32, "must be an integer from 0"),
        ("policy_kwargs", [64], "must be a dict"),
        ("device", "gpu", "must be auto, cpu, cuda, cuda:N or mps"),
        ("policy", None, "needs a policy with a memory core"),
        ("policy", 5, "needs a policy with a memory core"),
    ],
)
def test_wrong_arguments_name_their_key_and_what_is_valid(key, value, message):
    with pytest.raises(InputError, match=rf"^{key} = .*{message}"):
        make_model(**{key: value})


def test_numpys_integers_are_seeds():
    assert make_model(seed=np.random.default_rng(0).integers(7, 8)).seed == 7


def test_numpys_floats_are_taken():
    model = make_model(learning_rate=np.float32(0.5), gamma=np.float32(0.25), clip_range=np.float64(0.1))
    assert model.lr_schedule(1.0) == 0.5 and model.gamma == 0.25 and model.clip_range(1.0) == 0.1


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_a_missing_cuda_device_is_warned_of():
    with pytest.warns(UserWarning, match="device = 'cuda': torch sees no CUDA device, so the CPU is used"):
        assert make_model(device="cuda").device == torch.device("cpu")


class Shows(gym.Env):
    """Shows one observation for ever."""

    action_space = spaces.Discrete(2)

    def __init__(self, observation_space, observation=None, action_space=action_space):
        self.observation_space, self.observation = observation_space, observation
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation, {}

    def step(self, action):
        return self.observation, 1.0, False, False, {}


class NoEnv:
    """Has what an environment has, but is none."""

    observation_space = action_space = spaces.Discrete(2)

    def step(self, action):
        return 0, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (None, "env = None: must be a Gymnasium environment, its id"),
        (SimpleMultiObsEnv, r"make one: SimpleMultiObsEnv\(\)"),
        (lambda: gym.make(CARTPOLE), r"call the function, or use DummyVecEnv\(\[function\]\)"),
        ([lambda: gym.make(CARTPOLE)], "use DummyVecEnv with a list of functions"),
        (5, "env = 5: must be a Gymnasium environment"),
        (Shows(spaces.Text(3)), "observation space = Text.*not supported; valid are Box"),
        (Shows(spaces.Sequence(spaces.Discrete(2))), "observation space = Sequence.*not supported; valid are Box"),
        (Shows(spaces.Box(0, 1, (0,))), "observation space = Box.*is empty"),
        (Shows(spaces.Dict()), r"observation space = Dict\(\): is empty"),
        (Shows(spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)))), r"= Dict\('b'.*not supported; .*FlattenObservation"),
        (Shows(spaces.Discrete(2), action_space=spaces.Tuple([spaces.Discrete(2)])), "action space = Tuple.*valid are"),
        (gym.wrappers.ClipAction(gym.make("Pendulum-v1")), "action space = Box.*remove gymnasium.wrappers.ClipAction"),
        (NoEnv(), "derive NoEnv from gymnasium.Env"),
        ("small_models:Missing", r"small_models .* has no class 'Missing'"),
    ],
)
def test_a_wrong_environment_is_an_error_with_a_hint(env, message):
    with pytest.raises(InputError, match=message):
        make_model(env)


@pytest.mark.filterwarnings("ignore:.*render_mode")  # SB3 asks for pictures, which POPGym does not have
def test_an_id_may_name_a_class_of_a_module_or_a_family_of_games():
    assert make_model("gymnasium.envs.classic_control:AcrobotEnv").action_space.n == 3
    assert make_model("popgym-RepeatFirstEasy-v0").action_space.n == 4


def test_a_picture_without_channels_is_an_error_with_a_hint():
    with pytest.raises(InputError, match=r"is for images \[H, W, C\]; add an axis .*\(env, \(36, 36, 1\)\)"):
        lstm_model(Shows(spaces.Box(0, 255, (36, 36), np.uint8)), policy="CnnNtmPolicy")


def test_an_id_is_taken_by_set_env_and_load_too(tmp_path):
    model = make_model()
    model.set_env(CARTPOLE)
    model.learn(8)
    model.save(tmp_path / "model")
    MemoryPPO.load(tmp_path / "model", env=CARTPOLE).learn(8)
    with pytest.raises(InputError, match="env = None: set one with"):
        MemoryPPO.load(tmp_path / "model").learn(8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(slots=64),
            r"slots: is an option of the core 'ntm_block': policy_kwargs=dict\(core_kwargs=dict\(slots=64\)\)",
        ),
        (dict(activation=torch.nn.ReLU), "activation: MlpNtmPolicy has no such option.*Did you mean activation_fn"),
        (dict(core_kwargs=[1]), "core_kwargs = .*must be a dict"),
        (dict(optimizer_kwargs=dict(foo=1)), "optimizer_kwargs.foo: not valid for Adam; valid are betas"),
        (dict(optimizer_kwargs=dict(lr=1)), "optimizer_kwargs.lr: not valid for Adam"),
        (dict(optimizer_class="adam"), "optimizer_class = 'adam': must be a class"),
        (dict(features_extractor_kwargs=dict(dim=3)), "features_extractor_kwargs.dim: not valid for FlattenExtractor"),
        (dict(popart="False"), "popart = 'False': must be True or False"),
        (dict(ortho_init="False"), "ortho_init = 'False': must be True or False"),
        (dict(share_features_extractor="no"), "share_features_extractor = 'no': must be True or False"),
        (dict(activation_fn="relu"), "activation_fn = 'relu': must be a class, such as torch.nn.ReLU"),
        (dict(activation_fn=torch.nn.ReLU()), "activation_fn = .*must be a class"),
        (dict(net_arch="small"), "net_arch = 'small': must be a list of layer sizes"),
        (dict(net_arch=[-1]), "net_arch = .*must be a list of layer sizes"),
        (dict(net_arch=dict(pi=[4], qf=[4])), "net_arch = .*must be a list of layer sizes"),
    ],
)
def test_wrong_policy_options_name_their_key_and_what_is_valid(options, message):
    with pytest.raises(InputError, match=rf"^policy_kwargs\.{message}"):
        make_model(policy_kwargs=options)


class Change(BaseCallback):
    """Sets attributes of the model before its first rollout."""

    def __init__(self, **changes):
        super().__init__()
        self.changes = changes

    def _on_rollout_start(self):
        for key, value in self.changes.items():
            setattr(self.model, key, value)

    def _on_step(self):
        return True


@pytest.mark.parametrize("value", [0.05, lambda progress: 0.05])
def test_clip_ranges_that_a_callback_sets_are_used(value):
    model = make_model()
    model.learn(8, callback=Change(clip_range=value, clip_range_vf=value))
    assert model.logger.name_to_value["train/clip_range"] == model.logger.name_to_value["train/clip_range_vf"] == 0.05


@pytest.mark.parametrize("n_steps", [4, 16])
def test_another_number_of_steps_is_refused_rather_than_played_into_the_old_rollout(n_steps):
    model = make_model()
    model.n_steps = n_steps
    with pytest.raises(InputError, match=rf"n_steps = {n_steps}: must be 8, as when the model was made"):
        model.learn(16)


@pytest.mark.parametrize("steps", ["100", None, -1, float("nan")])
def test_total_timesteps_must_be_a_number(steps):
    with pytest.raises(InputError, match=r"total_timesteps = .*: must be a number of at least 0"):
        make_model().learn(steps)


VECTOR, NUMBER = spaces.Box(-1, 1, (3,)), spaces.Discrete(4)


@pytest.mark.parametrize(
    ("space", "observation", "message"),
    [
        (VECTOR, (np.zeros(3), {}), "mixing Gym API with SB3 VecEnv API"),
        (VECTOR, {"a": np.zeros(3)}, "observation of type dict: must be numbers of Box"),
        (VECTOR, None, "observation of type NoneType: must be numbers"),
        (VECTOR, "abc", "observation of type str: must be numbers"),
        (VECTOR, [[1.0], [1.0, 2.0]], "observation of type list: must be numbers"),
        (VECTOR, np.array([0, np.nan, 0]), "observation = .*contains a number that is not finite"),
        (NUMBER, 4, r"observation = 4: must be in Discrete\(4\)"),
        (NUMBER, np.array([0, -1]), r"must be in Discrete\(4\)"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "must be in MultiDiscrete"),
        (spaces.Dict(a=VECTOR), {}, r"observation = \[\]: must be a dict with the keys \['a'\]"),
        (spaces.Dict(a=VECTOR), {"a": np.zeros(3), "b": 1}, r"must be a dict with the keys \['a'\]"),
        (spaces.Dict(a=VECTOR), np.zeros(3), "observation = ndarray: must be a dict"),
        (spaces.Dict(a=NUMBER), {"a": 9}, r"observation\['a'\] = 9: must be in"),
    ],
)
def test_predict_names_the_problem_of_an_observation(space, observation, message):
    kind = MultiInputNtmPolicy if isinstance(space, spaces.Dict) else MlpNtmPolicy
    policy = kind(space, spaces.Discrete(2), lambda _: 1e-3, **TINY_POLICY)
    with pytest.raises(InputError, match=message):
        policy.predict(observation)


@pytest.mark.parametrize(
    "state", [np.zeros((1, 1, 8)), (np.zeros((1, 1, 8)),), "ab", (np.zeros((1, 1, 8)), np.zeros(3)), 5]
)
def test_predict_names_the_problem_of_a_state(state):
    with pytest.raises(InputError, match=r"^state of .*pass the state that the last predict returned"):
        make_model().predict(np.zeros(4), state)


def test_predict_refuses_a_text_for_an_episode_start():
    with pytest.raises(InputError, match="episode_start = 'False': must be a bool"):
        make_model().predict(np.zeros(4), None, "False")


def test_statistics_that_overflow_are_an_error():
    huge = Shows(spaces.Box(-np.inf, np.inf, (2,)), np.array([1e38, 0], np.float32))
    env = VecNormalize(DummyVecEnv([lambda: huge, lambda: Shows(huge.observation_space, np.zeros(2, np.float32))]))
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="running variance of the observation is not"):
        make_model(env).learn(8)


@pytest.mark.parametrize(("high", "is_warned_of"), [(255, True), (1, False)])
def test_a_cnn_that_reads_large_floats_is_warned_of(recwarn, high, is_warned_of):
    image = spaces.Box(0, high, (3, 40, 40), np.float32)
    make_model(Shows(image, image.sample()), policy="CnnNtmPolicy")
    told = [str(each.message) for each in recwarn if "which the CNN reads unscaled" in str(each.message)]
    assert bool(told) == is_warned_of and all("values up to 255" in each for each in told)


class EndsBadly(Shows):
    """Is cut short at its third step, with an observation that is not a number."""

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        observation = np.full(2, np.nan, np.float32) if self.steps == 3 else self.observation
        return observation, 1.0, False, self.steps == 3, {}


@pytest.mark.parametrize("is_normalized", [False, True])
def test_a_terminal_observation_that_is_not_finite_is_named_instead_of_the_reward(is_normalized):
    space = spaces.Box(-1, 1, (2,))
    copies = [kind(space, np.zeros(2, np.float32)) for kind in (Shows, EndsBadly)]
    env = DummyVecEnv([lambda: copies[0], lambda: copies[1]])
    with pytest.raises(NonFiniteError, match="terminal observation of environment 1 at step 2 of the rollout is nan"):
        make_model(VecNormalize(env) if is_normalized else env).learn(16)


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
        (64, 1, 128, None, [64], [64]),  # the batch size is more than the rollout
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
    model = lstm_model(make_vec_env(CARTPOLE, n_envs), **sizes_given)
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
        model = lstm_model(make_vec_env(CARTPOLE, n_envs), **sizes_given)
    assert found_sizes(model) == (lengths, sizes)
    model.learn(1)
    assert model.num_timesteps == n_steps * n_envs


def found_sizes(model: MemoryPPO) -> tuple[list[int], list[int]]:
    """The lengths of sequences and the sizes of minibatches that a rollout really gives."""
    batches = list(model.rollout.minibatches(model._minibatch_size()))
    return list(dict.fromkeys(len(batch.resets) for batch in batches)), [batch.resets.numel() for batch in batches]
