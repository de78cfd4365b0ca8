"""The adapter from Gymnasium's vector environments to SB3's, on episodes worked out by hand."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from ntm_rl.envs import EnvSettings, VectorEnvAdapter, make_env, make_vec_env
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
def test_episodes_end_as_sb3_wants_them_to(mode, as_dict):
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


def test_the_adapter_around_gymnasiums_sync_vector_env_equals_sb3s_dummy_vec_env():
    settings = EnvSettings("ntm_rl/CartPoleNoVelocity-v0", max_episode_steps=12)
    makers = [lambda: make_env(settings)] * 3
    ours = VectorEnvAdapter(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    peer = DummyVecEnv([lambda: Monitor(make_env(settings))] * 3)
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


def test_attributes_and_methods_reach_the_vector_environment():
    venv = VectorEnvAdapter(Counters(AutoresetMode.SAME_STEP))
    assert venv.get_attr("as_dict") == [False] * 3
    venv.set_attr("lengths", np.array([5, 5, 5]))
    assert venv.envs.lengths.tolist() == [5, 5, 5]
    assert venv.env_is_wrapped(Monitor) == [True] * 3
    with pytest.raises(InputError, match=r"indices = \[0\].*all copies"):
        venv.set_attr("lengths", 1, indices=[0])


CARTPOLE = "CartPole-v1"
GAME = "popgym-RepeatPreviousEasy-v0"


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (EnvSettings(GAME), VectorEnvAdapter),
        (EnvSettings(GAME, vectorization="native"), VectorEnvAdapter),
        (EnvSettings(GAME, vectorization="sync"), DummyVecEnv),
        (EnvSettings(GAME, previous_action=True), DummyVecEnv),
        (EnvSettings(CARTPOLE), DummyVecEnv),
        (EnvSettings(CARTPOLE, vectorization="subprocess"), SubprocVecEnv),
        (EnvSettings(CARTPOLE, normalize_observation=True), VecNormalize),
    ],
)
def test_the_factory_chooses_the_vectorization_and_every_episode_is_counted(settings, kind):
    venv = make_vec_env(settings, 2, seed=0)
    assert isinstance(venv, kind)
    venv.reset()
    episodes = []
    while not episodes:
        _, _, dones, infos = venv.step(np.array([venv.action_space.sample() for _ in range(2)]))
        episodes = [infos[index]["episode"] for index in np.flatnonzero(dones)]
    assert all(episode["l"] > 0 for episode in episodes)
    venv.close()


def test_native_and_single_games_have_the_same_spaces_and_lengths():
    native, single = (
        make_vec_env(EnvSettings("popgym-AutoencodeEasy-v0", vectorization=kind), 1, 0) for kind in ("native", "sync")
    )
    assert native.observation_space == single.observation_space
    assert native.action_space == single.action_space
    for venv in (native, single):
        venv.reset()
        lengths = [step for step in range(1, 120) if venv.step(np.array([0]))[2][0]]
        assert lengths == [103]


def test_an_evaluation_leaves_the_normalisation_as_it_is():
    settings = EnvSettings(CARTPOLE, normalize_observation=True, normalize_reward=True)
    venv = make_vec_env(settings, 1, 0, training=False)
    venv.reset()
    _, rewards, _, _ = venv.step(np.array([0]))
    assert rewards[0] == 1
    assert venv.obs_rms.count < 1


@pytest.mark.parametrize(
    ("settings", "n_envs", "message"),
    [
        (EnvSettings(CARTPOLE), 0, r"n_envs = 0: must be at least 1"),
        (
            EnvSettings(CARTPOLE, vectorization="native"),
            1,
            r"env.vectorization = 'native'.*CartPole-v1.*there is one for",
        ),
        (EnvSettings(GAME, vectorization="native", previous_action=True), 1, r"does not know env.previous_action"),
    ],
)
def test_impossible_vectorizations_are_refused(settings, n_envs, message):
    with pytest.raises(InputError, match=message):
        make_vec_env(settings, n_envs, 0)
