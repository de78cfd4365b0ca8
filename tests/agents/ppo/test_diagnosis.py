"""Values that are not finite: errors name the environment and the step, behind any wrapper."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from ntm_rl.agents import MemoryPPO
from ntm_rl.agents.runs.nonfinite import NonFiniteError

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in SB3's statistics
WRAPPERS = {
    "plain": lambda env: env,
    "normalised": VecNormalize,
    "normalised rewards": lambda env: VecNormalize(env, norm_obs=False),
    "frozen": lambda env: VecNormalize(env, training=False),
    "stacked": lambda env: VecFrameStack(VecNormalize(env), 2),
}


class Faulty(gym.Env):
    """Random numbers, but for one observation or reward of its life."""

    action_space = spaces.Discrete(2)

    def __init__(self, bad_observation: int = -1, bad_reward: int = -1, bad=np.nan, as_dict: bool = False):
        self.bad_observation, self.bad_reward, self.bad, self.as_dict = bad_observation, bad_reward, bad, as_dict
        box = spaces.Box(-np.inf, np.inf, (3,))
        self.observation_space = spaces.Dict(place=box, card=spaces.Discrete(2)) if as_dict else box
        self.steps = 0

    def observation(self, numbers):
        return {"place": numbers, "card": 1} if self.as_dict else numbers

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        numbers = np.full(3, self.bad if self.bad_observation == 0 else 0, np.float32)
        return self.observation(numbers), {}

    def step(self, action):
        self.steps += 1
        numbers = self.np_random.normal(size=3).astype(np.float32)
        if self.steps == self.bad_observation:
            numbers[1] = self.bad
        reward = self.bad if self.steps == self.bad_reward else 1.0
        return self.observation(numbers), reward, self.steps % 9 == 0, False, {}


def make_model(wrapper=lambda env: env, core="lstm", **faults) -> MemoryPPO:
    fine = dict(as_dict=faults.get("as_dict", False))
    env = wrapper(DummyVecEnv([lambda: Faulty(**fine), lambda: Faulty(**fine), lambda: Faulty(**faults)]))
    policy = "MultiInputNtmPolicy" if fine["as_dict"] else "MlpNtmPolicy"
    kwargs = dict(core=core, core_kwargs=dict(hidden_size=8))
    return MemoryPPO(policy, env, n_steps=16, batch_size=48, n_epochs=1, seed=0, policy_kwargs=kwargs, device="cpu")


@pytest.mark.parametrize("core", ["lstm", "ntm", "feedforward"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_environment_and_the_step_of_a_bad_observation_are_named_before_it_is_learned_from(wrapper, bad, core):
    model = make_model(WRAPPERS[wrapper], core, bad_observation=20, bad=bad)
    with pytest.raises(
        NonFiniteError, match=rf"observation of environment 2 at step 4 of the rollout is {bad}"
    ) as error:
        model.learn(480)
    assert error.value.report["index"] == [1]
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_environment_and_the_step_of_a_bad_reward_are_named(wrapper):
    model = make_model(WRAPPERS[wrapper], bad_reward=20, bad=np.inf)
    with pytest.raises(NonFiniteError, match="reward of environment 2 at step 3 of the rollout is inf"):
        model.learn(480)


@pytest.mark.parametrize("wrapper", ["plain", "normalised"])
@pytest.mark.parametrize(("when", "step"), [(0, 0), (16, 16), (32, 16)])
def test_the_first_and_the_last_observation_of_a_rollout_are_checked(wrapper, when, step):
    model = make_model(WRAPPERS[wrapper], bad_observation=when)
    with pytest.raises(NonFiniteError, match=rf"observation of environment 2 at step {step} of the rollout is nan"):
        model.learn(480)


@pytest.mark.parametrize("wrapper", ["plain", "normalised"])
def test_the_part_of_a_dict_is_named(wrapper):
    def normalised(env):
        return VecNormalize(env, norm_obs_keys=["place"])

    model = make_model(normalised if wrapper == "normalised" else WRAPPERS[wrapper], bad_observation=5, as_dict=True)
    with pytest.raises(NonFiniteError, match="observation 'place' of environment 2 at step 5 of the rollout is nan"):
        model.learn(480)


def test_numbers_whose_sum_overflows_are_finite():
    model = make_model(bad_observation=20, bad=1.0)
    scaled = model.policy._features
    model.policy._features = lambda obs, extractor: scaled(obs * 1e-38, extractor)
    model.env.envs[0].observation = lambda numbers: np.full(3, 3e38, np.float32)
    model.learn(48)
    assert model.rollout.observations.isfinite().all() and not model.rollout.observations.sum().isfinite()
