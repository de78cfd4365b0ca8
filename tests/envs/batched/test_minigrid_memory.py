"""The batched MiniGrid Memory compared with MiniGrid's, with the same seeds and actions."""

from dataclasses import replace

import gymnasium as gym
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
import pytest

from ntm_rl.envs import EnvSettings, make_env, make_vec_env
from ntm_rl.envs.batched.minigrid_memory import MINIGRID_MEMORY, MiniGridMemoryVectorEnv
from ntm_rl.errors import InputError

COPIES = 6
VARIANTS = [
    *((env_id, {"agent_view_size": 3}) for env_id in MINIGRID_MEMORY),
    ("MiniGrid-MemoryS7-v0", {"max_steps": 20}),
    ("MiniGrid-MemoryS9-v0", {"random_length": True, "agent_view_size": 5}),
]


def action_for(maze: gym.Env, side: int, rng: np.random.Generator) -> int:
    """Returns mostly an action that leads to the hallway's end and from there to a side, down (1) or up (3)."""
    if rng.random() < 0.15:
        return int(rng.integers(7))
    wanted = 0 if maze.agent_pos[0] < maze.success_pos[0] else side
    turn = (wanted - maze.agent_dir) % 4
    return 2 if turn == 0 else 0 if turn == 3 else 1


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS)
def test_the_same_seeds_and_actions_give_minigrids_numbers_exactly(env_id, kwargs):
    batched = MiniGridMemoryVectorEnv(COPIES, make_env(EnvSettings(env_id, kwargs)))
    singles = [make_env(EnvSettings(env_id, kwargs)) for _ in range(COPIES)]
    assert batched.single_observation_space == singles[0].observation_space
    assert batched.single_action_space.n == singles[0].action_space.n
    seen, _ = batched.reset(seed=11)
    for copy, single in enumerate(singles):
        np.testing.assert_array_equal(seen[copy], single.reset(seed=11 + copy)[0])
    rng, ends = np.random.default_rng(0), {"matching": 0, "wrong": 0, "late": 0}
    for step in range(900):
        if step < 400:
            actions = np.array(
                [action_for(single.unwrapped, 1 + 2 * (copy % 2), rng) for copy, single in enumerate(singles)]
            )
        else:  # wander, so that the time runs out
            actions = rng.integers(7, size=COPIES)
        seen, rewards, terminated, truncated, info = batched.step(actions)
        assert (seen.dtype, rewards.dtype, terminated.dtype, truncated.dtype) == ("f4", "f8", "?", "?")
        for copy, single in enumerate(singles):
            observation, reward, *ended, _ = single.step(actions[copy])
            assert rewards[copy] == reward and [terminated[copy], truncated[copy]] == ended, (step, copy)
            np.testing.assert_array_equal((info["final_obs"] if any(ended) else seen)[copy], observation)
            if any(ended):
                ends["matching" if reward else "wrong" if ended[0] else "late"] += 1
                np.testing.assert_array_equal(seen[copy], single.reset()[0])
    assert ends["matching"] > 3 and ends["wrong"] > 3
    assert ends["late"] > 3 or kwargs.get("max_steps") is None


def test_the_batched_version_is_used_unless_a_time_limit_is_set():
    settings = EnvSettings("MiniGrid-MemoryS7-v0", {"agent_view_size": 3}, previous_action=True)
    native = make_vec_env(settings, 2, 5)
    single = make_vec_env(replace(settings, vectorization="sync"), 2, 5)
    assert isinstance(native.envs.unwrapped, MiniGridMemoryVectorEnv)
    ours, theirs = native.reset(), single.reset()
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    limited = make_vec_env(EnvSettings("MiniGrid-MemoryS7-v0", max_episode_steps=9), 1, 0)
    limited.reset()
    assert [limited.step([0])[2][0] for _ in range(9)] == [False] * 8 + [True]


def test_an_episode_continues_from_a_saved_state():
    env = MiniGridMemoryVectorEnv(3, make_env(EnvSettings("MiniGrid-MemoryS13Random-v0")))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        env.step(rng.integers(3, size=3))
    state, actions = env.get_state(), rng.integers(3, size=(900, 3))
    first = [env.step(each)[:4] for each in actions]
    env.set_state(state)
    for before, each in zip(first, actions, strict=True):
        for mine, other in zip(env.step(each)[:4], before, strict=True):
            np.testing.assert_array_equal(mine, other)
    with pytest.raises(InputError, match="pose"):
        env.set_state({**state, "pose": state["pose"] + 10**6})


@pytest.mark.parametrize("vectorization", ["native", "sync"])
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 8}, "size = 8: must be odd and at least 7"),
        ({"size": 5}, "size = 5: must be odd and at least 7"),
        ({"agent_view_size": 4}, "its constructor raised an error: .*AssertionError"),
        ({"foo": 1}, "unexpected keyword argument 'foo'"),
    ],
)
def test_invalid_mazes_are_refused_in_one_line(kwargs, message, vectorization):
    with pytest.raises(InputError, match=message) as error:
        make_vec_env(EnvSettings("MiniGrid-MemoryS7-v0", kwargs, vectorization=vectorization), 2, 0)
    assert str(error.value).count("env.kwargs") == 1
