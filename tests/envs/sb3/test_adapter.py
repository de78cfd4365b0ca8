"""The adapter from Gymnasium's vector environments to SB3's, on hand-computed episodes."""

import gymnasium as gym
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.monitor import Monitor

from ntm_rl.envs import EnvSettings, PreviousStepVector, VectorEnvAdapter, make_env, make_vec_env
from ntm_rl.envs.foreign import ForeignError
from ntm_rl.envs.sb3.making import SpawnedSeedDummyVecEnv
from ntm_rl.envs.sb3.seeding import spawn_seed
from ntm_rl.errors import InputError


class Counters(VectorEnv):
    """Copy i counts 0, 1, 2, ... with reward i + 1 a step and ends after i + 2 steps, copy 0 by time limit."""

    def __init__(self, mode: AutoresetMode, as_dict: bool = False):
        self.metadata = {"autoreset_mode": mode}
        self.num_envs, self.as_dict = 3, as_dict
        box = spaces.Box(0, 9, (1,))
        self.single_observation_space = spaces.Dict({"count": box}) if as_dict else box
        self.single_action_space = spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, 3)
        self.action_space = batch_space(self.single_action_space, 3)
        self.lengths = np.array([2, 3, 4])

    def look(self):
        counts = self.counts[:, None].astype(np.float32)
        return {"count": counts} if self.as_dict else counts

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if options and "reset_mask" in options:
            self.counts[options["reset_mask"]] = 0
        else:
            self.counts = np.zeros(3, dtype=np.int64)
        return self.look(), {}

    def step(self, actions):
        self.counts += 1
        ends = self.counts == self.lengths
        truncated = ends & (np.arange(3) == 0)
        info = {}
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and ends.any():
            final = self.look()
            for rows in final.values() if self.as_dict else [final]:
                rows[~ends] = 77  # unwritten memory, as ALE leaves it
            info = {"final_obs": final}
            self.counts[ends] = 0
        return self.look(), np.arange(1.0, 4.0), ends & ~truncated, truncated, info


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("as_dict", [False, True])
def test_episode_ends_follow_sb3s_conventions(mode, as_dict):
    venv = VectorEnvAdapter(Counters(mode, as_dict))

    def counts(observations):
        return (observations["count"] if as_dict else observations)[..., 0].tolist()

    assert counts(venv.reset()) == [0, 0, 0]
    seen = [venv.step(np.zeros(3, dtype=np.int64)) for _ in range(4)]
    assert [counts(observations) for observations, *_ in seen] == [[1, 1, 1], [0, 2, 2], [1, 0, 3], [0, 1, 0]]
    assert [dones.tolist() for _, _, dones, _ in seen] == [
        [False, False, False],
        [True, False, False],
        [False, True, False],
        [True, False, True],
    ]
    assert seen[0][1].dtype == np.float32
    assert seen[0][3] == [{}, {}, {}]
    limited, terminated = seen[1][3][0], seen[2][3][1]
    assert limited["TimeLimit.truncated"] and not terminated["TimeLimit.truncated"]
    assert counts(limited["terminal_observation"]) == 2 and counts(terminated["terminal_observation"]) == 3
    assert (limited["episode"]["r"], limited["episode"]["l"]) == (2.0, 2)
    assert (terminated["episode"]["r"], terminated["episode"]["l"]) == (6.0, 3)
    assert (seen[3][3][2]["episode"]["r"], seen[3][3][2]["episode"]["l"]) == (12.0, 4)
    assert "episode" not in seen[3][3][1]
    assert (seen[3][3][0]["episode"]["r"], seen[3][3][0]["episode"]["l"]) == (2.0, 2)  # its second episode


class WithoutLast(Counters):
    def step(self, actions):
        return *super().step(actions)[:4], {}


def test_a_same_step_reset_without_final_observations_is_an_error():
    venv = VectorEnvAdapter(WithoutLast(AutoresetMode.SAME_STEP))
    venv.reset()
    venv.step(np.zeros(3, np.int64))
    with pytest.raises(ForeignError, match=r"WithoutLast.*SAME_STEP.*without info\['final_obs'\].*DISABLED"):
        venv.step(np.zeros(3, np.int64))


def test_the_adapter_around_gymnasiums_sync_vector_env_equals_sb3s_dummy_vec_env():
    settings = EnvSettings("ntm_rl/CartPoleNoVelocity-v0", max_episode_steps=12)
    makers = [lambda: make_env(settings)] * 3
    ours = VectorEnvAdapter(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    peer = SpawnedSeedDummyVecEnv([lambda: Monitor(make_env(settings))] * 3)
    ours.seed(4), peer.seed(4)
    np.testing.assert_array_equal(ours.reset(), peer.reset())
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        actions = rng.integers(2, size=3)
        (obs, rewards, dones, infos), expected = ours.step(actions), peer.step(actions)
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2])
        np.testing.assert_array_equal(obs, expected[0])
        for index in np.flatnonzero(dones):
            ended += 1
            assert infos[index]["TimeLimit.truncated"] == expected[3][index]["TimeLimit.truncated"]
            assert infos[index]["episode"]["r"] == expected[3][index]["episode"]["r"]
            np.testing.assert_array_equal(
                infos[index]["terminal_observation"], expected[3][index]["terminal_observation"]
            )
    assert ended > 5


def test_resets_in_the_step_after_are_refused_with_the_modes_that_work():
    with pytest.raises(InputError, match=r"autoreset_mode = NEXT_STEP.*SAME_STEP or DISABLED"):
        VectorEnvAdapter(Counters(AutoresetMode.NEXT_STEP))


class Solvable(gym.Env):
    """Ends after two steps, tells in its info whether it was solved, and shows one number."""

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)
    render_mode = "rgb_array"
    asked = None

    def __init__(self, name="any"):
        self.name = name

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.asked = 0, options
        return 0, {"fresh": True}

    def step(self, action):
        self.time += 1
        ended = self.time == 2
        return self.time, 1.0, False, ended, {"is_success": bool(action)} if ended else {}

    def render(self):
        return np.full((2, 2, 3), len(self.name), dtype=np.uint8)

    def tell(self, word):
        return word + self.name


def solvables(mode, **kwargs):
    return SyncVectorEnv([lambda: Solvable("a"), lambda: Solvable("bb")], autoreset_mode=mode, **kwargs)


MODES = [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


@pytest.mark.parametrize("mode", MODES)
def test_the_last_info_of_an_episode_comes_with_its_end_and_discrete_observations_stay(mode):
    venv = VectorEnvAdapter(solvables(mode))
    assert venv.reset().tolist() == [0, 0]
    venv.step(np.array([0, 0]))
    observations, _, dones, infos = venv.step(np.array([1, 0]))
    assert observations.tolist() == [0, 0] and dones.all()
    assert [info["is_success"] for info in infos] == [True, False]
    assert [info["terminal_observation"] for info in infos] == [2, 2]
    assert all(info["TimeLimit.truncated"] and "fresh" not in info for info in infos)


class Numbered(Solvable):
    def __init__(self, name, episode):
        super().__init__(name)
        self.episode = episode

    def step(self, action):
        *result, info = super().step(action)
        return *result, {**info, "episode": self.episode}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("episode", [3, {"number": 3}, "first"], ids=str)
def test_an_info_named_episode_without_statistics_is_replaced(mode, episode):
    venv = VectorEnvAdapter(SyncVectorEnv([lambda: Numbered("a", episode)] * 2, autoreset_mode=mode))
    venv.reset()
    venv.step(np.array([0, 0]))
    with pytest.warns(UserWarning, match=r"info\['episode'\] .* is replaced: .*use another key"):
        *_, infos = venv.step(np.array([0, 0]))
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(2.0, 2), (2.0, 2)]


def test_episode_statistics_of_an_environment_are_kept():
    told = {"r": 40.0, "l": 20, "t": 0.5}
    venv = VectorEnvAdapter(SyncVectorEnv([lambda: Numbered("a", told)], autoreset_mode=AutoresetMode.SAME_STEP))
    venv.reset()
    venv.step(np.array([0]))
    assert venv.step(np.array([0]))[3][0]["episode"] == told


def test_options_and_seeds_apply_to_the_next_reset_only():
    venv = VectorEnvAdapter(solvables(AutoresetMode.SAME_STEP))
    venv.set_options({"level": 3})
    venv.seed(7)
    venv.reset()
    assert [env.unwrapped.asked for env in venv.envs.envs] == [{"level": 3}] * 2
    assert [env.np_random_seed for env in venv.envs.envs] == [spawn_seed(7, 0), spawn_seed(7, 1)]
    venv.reset()
    assert [env.unwrapped.asked for env in venv.envs.envs] == [None] * 2
    venv.set_options([{"level": 3}, {"level": 4}])
    with pytest.raises(InputError, match=r"options = .*sub-environments must have the same options"):
        venv.reset()


def test_attributes_and_methods_reach_single_sub_environments():
    venv = VectorEnvAdapter(solvables(AutoresetMode.SAME_STEP))
    assert venv.get_attr("name") == ["a", "bb"] and venv.get_attr("name", 1) == ["bb"]
    assert venv.env_method("tell", "I am ") == ["I am a", "I am bb"]
    assert [image[0, 0, 0] for image in venv.get_images()] == [1, 2]
    assert sorted(venv.render()[..., 0].ravel().tolist()) == [1] * 4 + [2] * 4  # both copies, tiled
    venv.set_attr("name", "ccc")
    assert venv.get_attr("name") == ["ccc"] * 2


def test_a_buffer_that_the_next_step_overwrites_is_refused():
    with pytest.raises(InputError, match=r"copy = False of .*: the next step would overwrite"):
        VectorEnvAdapter(solvables(AutoresetMode.SAME_STEP, copy=False))


def test_atari_games_end_by_frame_limit_with_the_last_frames_of_the_episode():
    games = AtariVectorEnv(
        "pong", 2, autoreset_mode=AutoresetMode.SAME_STEP, num_threads=1, max_num_frames_per_episode=60, noop_max=1
    )
    venv = VectorEnvAdapter(games)
    observations, steps, dones = venv.reset(), 0, np.array([False])
    while not dones[0]:
        previous, steps = observations, steps + 1
        observations, rewards, dones, infos = venv.step(np.array([2, 3]))
    assert rewards.dtype == np.float32 and 10 <= steps <= 15  # 60 frames, four a step, some skipped at the start
    assert infos[0]["TimeLimit.truncated"] and infos[0]["episode"]["l"] == steps
    last = infos[0]["terminal_observation"]
    np.testing.assert_array_equal(last[:-1], previous[0][1:])  # the stack of frames has moved on by one
    assert not np.array_equal(observations[0], last)
    venv.close()


def test_attributes_and_methods_reach_the_vector_environment():
    venv = VectorEnvAdapter(Counters(AutoresetMode.SAME_STEP))
    assert venv.get_attr("as_dict") == [False] * 3
    venv.set_attr("lengths", np.array([5, 5, 5]))
    assert venv.envs.lengths.tolist() == [5, 5, 5]
    assert venv.env_is_wrapped(Monitor) == [True] * 3
    wrapped = VectorEnvAdapter(PreviousStepVector(Counters(AutoresetMode.SAME_STEP)))
    wrapped.set_attr("lengths", np.array([6, 6, 6]))
    assert wrapped.get_attr("lengths", [0])[0].tolist() == wrapped.envs.env.lengths.tolist() == [6, 6, 6]
    with pytest.raises(InputError, match=r"indices = \[0\].*all sub-environments"):
        venv.set_attr("lengths", 1, indices=[0])


class WritesInPlace(gym.Env):
    """Counts its steps in one array; episodes take two."""

    observation_space, action_space = spaces.Box(0, 9, (1,)), spaces.Discrete(2)

    def __init__(self):
        self.array = np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.array[:] = 1
        return self.array, {}

    def step(self, action):
        self.array += 1
        return self.array, 0.0, bool(self.array[0] == 3), False, {}


gym.register("tests/WritesInPlace-v0", WritesInPlace)


@pytest.mark.parametrize("kind", ["sync", *MODES])
def test_an_environment_with_one_observation_array_keeps_its_terminal_observations(kind):
    if kind == "sync":
        venv = make_vec_env(EnvSettings("tests/WritesInPlace-v0", previous_action=True), 2, 0)
    else:
        venv = VectorEnvAdapter(SyncVectorEnv([WritesInPlace] * 2, autoreset_mode=kind))
    venv.reset()
    venv.step(np.zeros(2, dtype=np.int64))
    observations, _, dones, infos = venv.step(np.zeros(2, dtype=np.int64))
    assert dones.all()
    last = [info["terminal_observation"] for info in infos]
    if kind == "sync":
        last, observations = [each["observation"] for each in last], observations["observation"]
    assert np.array_equal(last, [[3], [3]]) and observations.tolist() == [[1], [1]]
