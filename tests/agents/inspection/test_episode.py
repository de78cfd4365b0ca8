"""Episodes of every kind of space and core, compared with the policy that played them."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from episodes import small_episode
from ntm_rl.agents.inspection.episode import DiscreteAction, NumericAction, PlayOptions, play_episodes
from ntm_rl.agents.inspection.memory_trace import MemoryRecorder
from ntm_rl.agents.inspection.naming import observation_parts
from ntm_rl.agents.inspection.observation_frames import ObservationDrawer
from ntm_rl.agents.inspection.page.build import Source, build_page
from ntm_rl.agents.inspection.playing import play
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.policies import policy_class_for
from ntm_rl.cores.registry import core_names, make_core
from ntm_rl.errors import InputError

STEPS = 4
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
OBSERVATIONS = {
    "box": (spaces.Box(-np.inf, np.inf, (2, 3)), 6),
    "discrete": (spaces.Discrete(3), 3),
    "multidiscrete": (spaces.MultiDiscrete([3, 2]), 2),
    "multibinary": (spaces.MultiBinary(4), 4),
    "image": (IMAGE, None),
    "dict": (spaces.Dict(camera=IMAGE, speed=spaces.Box(-1, 1, (1,))), 1),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=5),
    "multidiscrete": spaces.MultiDiscrete([2, 4]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-2, 2, (2,)),
    "many": spaces.Box(-1, 1, (30,)),
}


class RandomEnv(gym.Env):
    """Random observations; an episode takes `STEPS` steps."""

    action_names = ("up", "down", "stay")

    def __init__(self, observations, actions):
        self.observation_space, self.action_space = observations, actions

    def reset(self, *, seed=None, options=None):
        self.left = STEPS
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {"is_success": True}


def agent_in(observations, actions, core="ntm", **kwargs):
    """An untrained agent and its environment."""
    torch.manual_seed(0)
    kwargs = kwargs or {"slots": 5, "width": 3, "hidden_size": 6}
    policy = policy_class_for(observations)(
        observations, actions, lambda _: 0.0, net_arch=[4], core=core, core_kwargs=kwargs
    )
    return LoadedAgent(policy, {}, {}), DummyVecEnv([lambda: Monitor(RandomEnv(observations, actions))])


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ["discrete", "box"])
def test_observations_of_every_space_are_shown(observation, action):
    space, numbers = OBSERVATIONS[observation]
    agent, env = agent_in(space, ACTIONS[action])
    first, second = play_episodes(agent, env, None, PlayOptions(episodes=2))
    for episode in (first, second):
        shapes = [shown.shape for _, shown in episode.observations]
        assert shapes == ([] if numbers is None else [(STEPS, numbers)])
        assert [frame.shape for frame in episode.frames] == STEPS * [(36, 36, 3)] * (numbers in (None, 1))
        assert episode.ended and episode.success and episode.rewards.sum() == STEPS
    assert "id=" in build_page("random", [Source("run", [], [("first", first), ("second", second)])])


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_of_every_space_are_shown(action):
    space = ACTIONS[action]
    agent, env = agent_in(spaces.Box(-1, 1, (2,)), space)
    (episode,) = play_episodes(agent, env, None, PlayOptions(deterministic=True))
    if isinstance(episode.actions, NumericAction):
        size = int(np.prod(space.shape))
        assert episode.actions.means.shape == episode.actions.taken.shape == (STEPS, size)
        assert (episode.actions.deviations is None) == (action == "multibinary")
        expected = episode.actions.means > 0.5 if action == "multibinary" else episode.actions.means.clip(-2, 2)
        np.testing.assert_allclose(episode.actions.taken, expected, atol=1e-6)
    else:
        assert [len(choice.labels) for choice in episode.actions] == ([3] if action == "discrete" else [2, 4])
        for choice in episode.actions:
            assert isinstance(choice, DiscreteAction)
            np.testing.assert_allclose(choice.probabilities.sum(axis=1), 1, rtol=1e-5)
            np.testing.assert_array_equal(choice.taken, choice.probabilities.argmax(axis=1))
    if action == "discrete":
        assert episode.actions[0].labels == RandomEnv.action_names
    build_page("random", [Source("run", [], [("episode", episode)])])


@pytest.mark.parametrize("core", core_names())
def test_the_memory_is_that_of_the_policy_at_every_step(core):
    agent, env = agent_in(spaces.Box(-1, 1, (2,)), spaces.Discrete(2), core, hidden_size=8)
    steps = list(play(agent, env, None, max_steps=STEPS, deterministic=False))
    recorder = MemoryRecorder(agent.policy.core)
    for step in steps:
        recorder.add(step.before, step.after)
    trace = recorder.trace()
    assert not steps[0].before.any() and (steps[1].before == steps[0].after).all()
    for number, step in enumerate(steps):
        memory = agent.policy.core.memory(step.after)
        assert (trace.memory is None) == (memory is None)
        if memory is not None:
            np.testing.assert_array_equal(trace.memory[number], memory[0].detach())
        for name, weighting in agent.policy.core.weightings(step.after).items():
            np.testing.assert_array_equal(trace.heads[name].weighting[number], weighting[0].detach())
        for name, activation in agent.policy.core.activations(step.after).items():
            np.testing.assert_array_equal(trace.activations[name][number], activation[0].detach())


def test_the_last_episode_breaks_off_at_the_limit():
    agent, env = agent_in(spaces.Discrete(2), spaces.Discrete(2))
    episodes = play_episodes(agent, env, None, PlayOptions(episodes=9, max_steps=STEPS + 1))
    assert [(len(each.rewards), each.ended) for each in episodes] == [(STEPS, True), (1, False)]


def test_a_memory_that_is_too_large_is_named():
    core = make_core("sam", 2, slots=2**20, hidden_size=4)
    recorder, state = MemoryRecorder(core), core.initial_state(1)
    with pytest.raises(InputError, match="the memory of 3 steps is too large to be shown; play fewer with --max-steps"):
        for _ in range(9):
            recorder.add(state, state)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e38])
def test_numbers_that_are_not_finite_or_huge_are_shown(number):
    episode = small_episode()
    head = replace(episode.memory.heads["read 1"], vectors=np.full((12, 4), number, np.float32))
    memory = replace(
        episode.memory,
        memory=np.full((12, 8, 4), number, np.float32),
        activations={"hidden": np.full((12, 3), -number, np.float32)},
        heads={**episode.memory.heads, "read 1": head},
    )
    broken = replace(episode, memory=memory, values=np.full(12, number, np.float32))
    assert "NaN" not in build_page("broken", [Source("run", [], [("episode", broken)])]).split("<script>")[0]


def test_observations_are_drawn_as_bars_or_images():
    for observations, size in ((spaces.Box(-1, 1, (40,)), 384), (IMAGE, 36)):
        _, env = agent_in(observations, spaces.Discrete(2))
        frame = ObservationDrawer(observation_parts(env)).draw(env.reset())
        assert frame.dtype == np.uint8 and frame.shape[1:] == (size, 3) and len(np.unique(frame)) > 2
