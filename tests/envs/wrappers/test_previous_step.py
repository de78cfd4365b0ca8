"""The previous action and reward in the observation, for single and vector environments."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from ntm_rl.envs import PreviousStep, PreviousStepVector, VectorEnvAdapter
from ntm_rl.errors import InputError


class Short(gym.Env):
    """Counts its steps, which are also the reward, and ends after `length` of them."""

    def __init__(self, length=3, action_space=None, as_dict=False):
        self.length, self.as_dict = length, as_dict
        box = spaces.Box(0, 9, (1,))
        self.observation_space = spaces.Dict({"count": box}) if as_dict else box
        self.action_space = action_space or spaces.Discrete(3)

    def look(self):
        count = np.array([self.time], dtype=np.float32)
        return {"count": count} if self.as_dict else count

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look(), {}

    def step(self, action):
        self.time += 1
        return self.look(), float(self.time), self.time == self.length, False, {}


def test_the_previous_step_is_added_to_the_observation_and_zero_at_the_start():
    env = PreviousStep(gym.make("CartPole-v1"))
    first, _ = env.reset(seed=0)
    assert first["previous_action"].tolist() == [0, 0] and first["previous_reward"].tolist() == [0]
    second, reward, *_ = env.step(1)
    assert second["previous_action"].tolist() == [0, 1] and second["previous_reward"].tolist() == [reward]
    assert env.observation_space.contains(second)
    again, _ = env.reset()
    assert again["previous_action"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Discrete(3, start=1), 2, [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), [0, 1, 0, 0, 1]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], dtype=np.int8), [1, 0, 1]),
        (spaces.Box(1, 5, (2,)), np.array([2, 4], dtype=np.float32), [2, 4]),
    ],
    ids=str,
)
def test_actions_are_encoded_as_gymnasium_flattens_them(space, action, expected):
    env = PreviousStep(Short(action_space=space), reward=False)
    first, _ = env.reset()
    assert env.observation_space.contains(first)  # zeros, also where the action's bounds exclude them
    second, *_ = env.step(action)
    assert env.observation_space.contains(second) and "previous_reward" not in second
    assert second["previous_action"].tolist() == expected == spaces.flatten(space, action).tolist()


def test_a_name_that_the_observation_already_has_is_refused():
    class Named(Short):
        observation_space = spaces.Dict({"previous_reward": spaces.Box(0, 1, (1,))})

        def __init__(self):
            self.action_space = spaces.Discrete(2)

    with pytest.raises(InputError, match=r"previous_reward = True: the observation already has a key of that name"):
        PreviousStep(Named())


LENGTHS = (2, 3, 5)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,))], ids=str)
def test_many_environments_show_what_single_ones_show(mode, as_dict, space):
    bare = [lambda length=length: Short(length, space, as_dict) for length in LENGTHS]
    ours = VectorEnvAdapter(PreviousStepVector(SyncVectorEnv(bare, autoreset_mode=mode)))
    peer = DummyVecEnv([lambda make=make: PreviousStep(make()) for make in bare])
    assert ours.observation_space == peer.observation_space
    held = ours.reset()
    expected = peer.reset()
    space.seed(0)
    ended = 0
    for _ in range(12):
        actions = np.array([space.sample() for _ in LENGTHS])
        observations, _, dones, infos = ours.step(actions)
        _same(held, expected)  # the step has not written into what the caller holds
        held, (expected, _, peer_dones, peer_infos) = observations, peer.step(actions)
        _same(held, expected)
        np.testing.assert_array_equal(dones, peer_dones)
        for index in np.flatnonzero(dones):
            ended += 1
            _same(infos[index]["terminal_observation"], peer_infos[index]["terminal_observation"])
    assert ended == 12 // 2 + 12 // 3 + 12 // 5


def _same(seen, expected):
    assert seen.keys() == expected.keys()
    for key, part in seen.items():
        np.testing.assert_array_equal(part, expected[key])
        assert part.dtype == expected[key].dtype


def test_a_reset_in_the_next_step_clears_the_previous_step():
    envs = PreviousStepVector(SyncVectorEnv([lambda: Short(2), lambda: Short(9)]))
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.reset()
    seen = [envs.step(np.array([1, 2]))[0] for _ in range(4)]
    assert [step["previous_action"][0].tolist() for step in seen] == [[0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert [step["previous_reward"][0].tolist() for step in seen] == [[1], [2], [0], [1]]
    assert [step["previous_reward"][1].tolist() for step in seen] == [[1], [2], [3], [4]]


def test_arrays_of_the_caller_are_not_overwritten():
    class Float32Rewards(SyncVectorEnv):
        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            return observations, rewards.astype(np.float32), *rest

    makers = [lambda: Short(2)] * 2
    envs = PreviousStepVector(Float32Rewards(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    envs.reset()
    assert [envs.step(np.array([1, 2]))[1].tolist() for _ in range(2)] == [[1, 1], [2, 2]]

    envs = PreviousStepVector(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED))
    envs.reset()
    last = [envs.step(np.array([1, 2]))[0] for _ in range(2)][-1]
    again, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert again["previous_action"].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert last["previous_action"].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert last["previous_reward"].tolist() == [[2], [2]]
