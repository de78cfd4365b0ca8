"""Action masks of environments of every kind, as `VecEnv`s."""

from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import masked_envs
from masked_envs import SPACES, Strict, StrictVector
from ntm_rl.envs import EnvSettings, PreviousStep, PreviousStepVector, VectorEnvAdapter, make_vec_env
from ntm_rl.envs.foreign import ForeignError
from ntm_rl.envs.sb3.action_masks import ActionMaskReader
from ntm_rl.envs.wrappers.action_masks import MaskFormat
from ntm_rl.errors import InputError

VECTORS = {
    "dummy": lambda makers: DummyVecEnv(makers),
    "normalized": lambda makers: VecNormalize(VecMonitor(DummyVecEnv(makers))),
    **{
        f"sync {mode.name}": lambda makers, mode=mode: VectorEnvAdapter(SyncVectorEnv(makers, autoreset_mode=mode))
        for mode in AutoresetMode
    },
    "async": lambda makers: VectorEnvAdapter(AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)),
}


def play(env, steps: int = 40, use="auto", seed: int = 0) -> ActionMaskReader:
    """Plays random allowed actions; `Strict` raises an error for others."""
    masks, rng = MaskFormat(env.action_space), np.random.default_rng(seed)
    reader = ActionMaskReader(env, use)
    env.seed(seed)
    env.reset()
    allowed = reader.reset()
    ended = 0
    for _ in range(steps):
        assert allowed.shape == (env.num_envs, masks.size)
        _, _, dones, infos = env.step(masks.sample(allowed, rng))
        ended += dones.sum()
        allowed = reader.step(infos, dones)
    assert ended > 5
    env.close()
    return reader


@pytest.mark.parametrize("offers", ["method", "info"])
@pytest.mark.parametrize("vector", VECTORS)
def test_masks_are_those_of_the_next_step_also_across_resets(vector, offers):
    env = VECTORS[vector]([partial(Strict, "multi_discrete", offers)] * 2)
    assert play(env).source == offers


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("offers", ["method", "info"])
def test_native_vector_environments_offer_all_masks_at_once(kind, offers):
    plain = StrictVector(3, kind, offers)
    assert play(VectorEnvAdapter(plain)).source == offers
    assert play(VectorEnvAdapter(PreviousStepVector(StrictVector(3, kind, offers)))).source == offers


def test_wrappers_pass_masks_on():
    env = DummyVecEnv([lambda: PreviousStep(gym.wrappers.TimeLimit(Strict(), 5))])
    assert play(env).source == "method"
    masker = DummyVecEnv([lambda: PreviousStep(ActionMasker(Strict(offers="none"), lambda env: env.mask))])
    assert play(masker).source == "method"


def test_sb3_contribs_own_functions_read_the_masks_of_a_native_environment():
    env = VectorEnvAdapter(StrictVector(3, "multi_discrete"))
    env.reset()
    assert is_masking_supported(env)
    np.testing.assert_array_equal(get_action_masks(env), env.envs.masks)


def test_infos_at_the_end_of_an_episode_keep_their_own_mask():
    """Sub-environment 0 plays episodes of two steps."""
    env = VectorEnvAdapter(StrictVector(2, offers="info"))
    reader = ActionMaskReader(env)
    env.reset()
    masks = reader.reset()
    for _ in range(2):
        _, _, dones, infos = env.step(MaskFormat(env.action_space).sample(masks, np.random.default_rng(0)))
        masks = reader.step(infos, dones)
    assert dones.tolist() == [True, False]
    np.testing.assert_array_equal(masks, env.envs.masks)
    np.testing.assert_array_equal(infos[1]["action_mask"], env.envs.masks[1])
    assert infos[0]["action_mask"].shape == (5,) and "terminal_observation" in infos[0]


def test_taxi_offers_masks_by_gymnasiums_habit():
    env = make_vec_env(EnvSettings("Taxi-v4", previous_action=True, max_episode_steps=9), 2, 0)
    assert play(env).source == "info"


def test_masks_are_off_where_nobody_offers_or_wants_them():
    env = make_vec_env(EnvSettings("CartPole-v1"), 2, 0)
    env.reset()
    assert ActionMaskReader(env).reset() is None
    with pytest.raises(InputError, match=r"action_masks = True: the environment has neither a method action_"):
        ActionMaskReader(env, True).reset()
    masked = DummyVecEnv([Strict])
    masked.reset()
    reader = ActionMaskReader(masked, False)
    assert reader.reset() is None and reader.step([{}], [False]) is None and reader.resume(None) is None


class Broken(Strict):
    """Its second step has a bad mask."""

    bad = None

    def __init__(self, offers="method"):
        super().__init__("discrete", offers)

    def _next(self):
        observation, info = super()._next()
        if self.time == 1:
            self.mask = self.bad
            info = {"action_mask": self.bad} if "action_mask" in info else info
        return observation, info


def error_of_first_step(env):
    reader = ActionMaskReader(env)
    actions = MaskFormat(env.action_space).sample(reader.reset(), np.random.default_rng(0))
    _, _, dones, infos = env.step(actions)
    with pytest.raises(ForeignError) as raised:
        reader.step(infos, dones)
    return raised


@pytest.mark.parametrize("offers", ["method", "info"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(5, bool), "environment 1, step 1: the action mask allows no action"),
        (np.ones(4, bool), "environment 1, step 1: action mask of 4 values of bool; must be one flat array of 5 bools"),
        (None, "environment 1, step 1: no action mask; each reset and step must return one; env.action_masks=false"),
    ],
)
def test_a_bad_mask_names_environment_and_step(offers, bad, message):
    broken = type("Bad", (Broken,), {"bad": bad})
    env = DummyVecEnv([lambda: Strict(offers=offers), lambda: broken(offers)])
    env.seed(3)
    env.reset()
    raised = error_of_first_step(env)
    assert str(raised.value).startswith(message)


class Late(Strict):
    """Its infos have masks, except those of the first `missing` resets."""

    def __init__(self, missing):
        super().__init__(offers="info")
        self.missing = missing

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.missing -= 1
        return observation, info if self.missing < 0 else {}


class LateVector(StrictVector):
    def reset(self, **kwargs):
        return super().reset(**kwargs)[0], {}


class AtNextReset(Late):
    """Only infos of resets have masks."""

    def step(self, action):
        self.mask[:] = True
        return *super().step(action)[:4], {}


@pytest.mark.parametrize(
    ("env", "step"),
    [
        (lambda: DummyVecEnv([lambda: Strict(offers="none"), lambda: Late(1)]), 1),
        (lambda: VecNormalize(DummyVecEnv([lambda: Strict(offers="none"), lambda: AtNextReset(1)])), "[2-6]"),
        (lambda: VectorEnvAdapter(LateVector(2, offers="info")), 1),
    ],
)
def test_masks_that_the_first_reset_lacks_are_an_error(env, step):
    env = env()
    env.seed(0)
    env.reset()
    readers = ActionMaskReader(env), ActionMaskReader(env, False)
    assert [reader.reset() for reader in readers] == [None, None]
    with pytest.raises(ForeignError, match=rf"environment \d, step {step}: info\['action_mask'\] is present, but was"):
        for _ in range(8):
            masks = [env.get_attr("mask")] if isinstance(env.unwrapped, DummyVecEnv) else env.envs.masks
            actions = MaskFormat(env.action_space).sample(np.reshape(masks, (2, -1)), np.random.default_rng(0))
            _, _, dones, infos = env.step(actions)
            assert readers[1].step(infos, dones) is None
            readers[0].step(infos, dones)


@pytest.mark.parametrize("how", ["raise", "info", "method"])
@pytest.mark.parametrize("vectorization", ["sync", "subprocess"])
def test_an_error_of_masks_names_the_id_and_the_step(vectorization, how):
    name, folder = "masked_envs:Faulty", str(Path(masked_envs.__file__).parent)
    env = make_vec_env(EnvSettings(name, {"how": how}, vectorization=vectorization, path=folder), 2, 3)
    try:
        env.reset()
        raised = error_of_first_step(env)
    finally:
        env.close()
    text = str(raised.value)
    assert text.startswith(f"env.id = {name!r}, ") and "step 1: " in text and "env_method" not in text
    assert "restart_workers" not in text  # only steps restart a process
    if how == "raise":
        assert "action_masks raised an error: " in text and "in fail: AttributeError: none left" in text
    else:
        assert "environment 0, step 1: no action mask" in text and "env.action_masks=false (in Python" in text


def test_a_native_environment_with_too_few_masks_is_an_error():
    envs = StrictVector(3)
    envs.action_masks = lambda: envs.masks[:1]
    env = VectorEnvAdapter(envs)
    env.reset()
    with pytest.raises(InputError, match="step 0: 1 action masks; must be 3"):
        ActionMaskReader(env).reset()


def test_an_info_without_a_mask_is_an_error_in_native_environments_too():
    class Forgetful(StrictVector):
        def step(self, actions):
            *others, info = super().step(actions)
            return *others, {key: value for key, value in info.items() if "action_mask" not in key}

    env = VectorEnvAdapter(Forgetful(2, offers="info"))
    env.reset()
    reader = ActionMaskReader(env)
    actions = MaskFormat(env.action_space).sample(reader.reset(), np.random.default_rng(0))
    _, _, dones, infos = env.step(actions)
    with pytest.raises(InputError, match="environment 0, step 1: no action mask"):
        reader.step(infos, dones)


def test_an_error_of_the_method_has_its_file_and_line():
    class Raises(Strict):
        def __init__(self):
            super().__init__()
            self.action_masks = self.fail

        def fail(self):
            raise ZeroDivisionError("none left")

    env = DummyVecEnv([Raises])
    env.reset()
    with pytest.raises(ForeignError, match=r"test_action_masks.py, line \d+, in fail: ZeroDivisionError: none left"):
        ActionMaskReader(env).reset()


def test_an_attribute_that_is_no_method_is_one_line():
    class Fixed(Strict):
        def __init__(self):
            super().__init__()
            self.action_masks = np.ones(5, bool)

    env = DummyVecEnv([Fixed])
    env.reset()
    with pytest.raises(ForeignError, match=r"step 0: action_masks must be a method: .* not callable") as raised:
        ActionMaskReader(env).reset()
    assert "\n" not in str(raised.value)


def test_masks_of_box_actions_are_an_error():
    class Steers(gym.Env):
        observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (2,))

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {"action_mask": np.ones(2, bool)}

    env = DummyVecEnv([Steers])
    env.reset()
    with pytest.raises(
        InputError, match=r"action masks for Box\(.*\): must be for Discrete.*; env.action_masks=false \(in Python: act"
    ):
        ActionMaskReader(env).reset()


def test_worker_processes_without_a_guard_stay_alive():
    env = SubprocVecEnv([partial(gym.make, "CartPole-v1")])
    env.reset()
    assert ActionMaskReader(env).reset() is None
    env.step(np.zeros(1, dtype=int))
    env.close()
