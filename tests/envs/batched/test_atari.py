"""Atari games compared with SB3's wrappers and with a replay of the same actions."""

import ale_py  # noqa: F401  (registers the ids that SB3 makes)
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from ntm_rl.envs.batched.atari import AtariVectorEnv
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

PLAIN = {"noop_max": 0, "terminal_on_life_loss": False, "clip_rewards": False}


def actions_of(count: int, envs: int, kinds: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, kinds, (count, envs))


def difference(frames: np.ndarray, peer_frames: np.ndarray) -> float:
    """Returns the mean difference of pixels, in the frame where it is largest."""
    return np.abs(frames[0].astype(int) - peer_frames[0].transpose(2, 0, 1)).mean(axis=(1, 2)).max()


def play_to_the_end(venv: VectorEnvAdapter, actions: int, limit: int = 3000) -> list[tuple]:
    """Returns the observations, rewards, ends and infos of sub-environment 0 up to the first whole game."""
    steps, rng = [], np.random.default_rng(1)
    for _ in range(limit):
        steps.append(venv.step(rng.integers(0, actions, venv.num_envs)))
        if "episode" in steps[-1][3][0]:
            return steps
    raise AssertionError("no game ended")


@pytest.mark.parametrize("game", ["Breakout", "Seaquest", "Pong", "SpaceInvaders", "MsPacman"])
def test_observations_rewards_and_ends_are_those_of_sb3s_atari_wrapper(game):
    theirs = VecFrameStack(make_atari_env(f"{game}NoFrameskip-v4", wrapper_kwargs={"noop_max": 0}), n_stack=4)
    ours = make_vec_env(EnvSettings(f"ALE/{game}-v5", kwargs={"noop_max": 0}), 1, seed=0)
    assert difference(ours.reset(), theirs.reset()) < 0.2
    count = 0
    for action in actions_of(1200, 1, ours.action_space.n):
        frames, rewards, dones, infos = ours.step(action)
        peer_frames, peer_rewards, peer_dones, peer_infos = theirs.step(action)
        assert rewards == peer_rewards and dones == peer_dones
        # ALE pools shades of gray, SB3 colours; two different frames differ by 3 and more.
        assert difference(frames, peer_frames) < 0.2
        if dones[0]:
            assert infos[0]["TimeLimit.truncated"] == peer_infos[0]["TimeLimit.truncated"]
            assert ("episode" in infos[0]) == ("episode" in peer_infos[0])  # of whole games
            assert infos[0].get("episode", {"r": 0})["r"] == peer_infos[0].get("episode", {"r": 0})["r"]
            count += 1
    assert count > 0


def test_the_frame_limit_truncates_as_in_sb3s_atari_wrapper():
    theirs = make_atari_env(
        "PongNoFrameskip-v4", wrapper_kwargs={"noop_max": 0}, env_kwargs={"max_num_frames_per_episode": 400}
    )
    ours = make_vec_env(EnvSettings("ALE/Pong-v5", kwargs={"noop_max": 0, "stack": 1, "max_frames": 400}), 1, seed=0)
    ours.reset(), theirs.reset()
    for step, action in enumerate(actions_of(250, 1, 6)):
        frames, rewards, dones, infos = ours.step(action)
        peer_frames, peer_rewards, peer_dones, peer_infos = theirs.step(action)
        assert rewards == peer_rewards and dones == peer_dones and difference(frames, peer_frames) < 0.2
        assert dones[0] == (step in (97, 195))  # FIRE and action 2 take 8 frames at the start
        if dones[0]:
            assert infos[0]["TimeLimit.truncated"] and peer_infos[0]["TimeLimit.truncated"]
            lasts = (each[0]["terminal_observation"][None] for each in (infos, peer_infos))
            assert difference(*lasts) < 0.2


@pytest.mark.parametrize("training", [True, False])
def test_fire_is_pressed_at_the_start_of_every_life(training):
    """Breakout's ball would wait for ever."""
    venv = make_vec_env(EnvSettings("ALE/Breakout-v5"), 2, seed=0, training=training)
    venv.reset()
    ends = np.stack([venv.step(np.zeros(2, dtype=np.int64))[2] for _ in range(420)]).sum(axis=0)
    assert (ends >= (6 if training else 1)).all()


@pytest.mark.parametrize(("noop_max", "lowest"), [(0, 1), (30, 3)])
def test_no_ops_vary_the_start_of_a_game(noop_max, lowest):
    frames, _ = AtariVectorEnv(5, game="seaquest", noop_max=noop_max).reset(seed=0)
    assert lowest <= len(np.unique(frames.reshape(5, -1), axis=0)) <= (5 if noop_max else 1)


def test_a_life_lost_ends_the_episode_and_not_the_game():
    venv = VectorEnvAdapter(AtariVectorEnv(1, game="breakout", noop_max=0, clip_rewards=False))
    venv.seed(0)
    venv.reset()
    steps = play_to_the_end(venv, 4)
    ends = [index for index, step in enumerate(steps) if step[2][0]]
    assert len(ends) == 5  # Breakout's lives
    assert ["episode" in steps[index][3][0] for index in ends] == [False] * 4 + [True]
    assert all(not steps[index][3][0]["TimeLimit.truncated"] for index in ends)
    for index in ends[:-1]:
        first, last = steps[index][0][0], steps[index][3][0]["terminal_observation"]
        assert not first[:-1].any() and last[:-1].any()  # the stack has no frames of the last life
        bricks = slice(20, 40)  # stay as they are
        np.testing.assert_array_equal(first[-1, bricks], last[-1, bricks])
    assert not np.array_equal(steps[-1][0][0], steps[-1][3][0]["terminal_observation"])
    assert steps[-1][3][0]["episode"]["l"] == len(steps)
    venv.close()


def test_the_episode_return_is_the_unclipped_score():
    both = []
    for clip in (True, False):
        envs = AtariVectorEnv(1, game="space_invaders", noop_max=0, clip_rewards=clip, terminal_on_life_loss=clip)
        venv = VectorEnvAdapter(envs)
        venv.seed(0)
        venv.reset()
        steps = play_to_the_end(venv, 6)
        both.append((sum(float(step[1][0]) for step in steps), steps[-1][3][0]["episode"]["r"]))
        venv.close()
    (clipped, score), (unclipped, true_score) = both
    assert score == true_score == unclipped > clipped > 0  # invaders pay 5 and more


def test_evaluations_play_whole_unclipped_games():
    settings = EnvSettings("ALE/SpaceInvaders-v5", kwargs={"terminal_on_life_loss": True, "clip_rewards": True})
    venv = make_vec_env(settings, 1, seed=0, training=False)
    venv.reset()
    steps = play_to_the_end(venv, 6)
    assert sum(step[2][0] for step in steps) == 1
    assert sum(float(step[1][0]) for step in steps) == steps[-1][3][0]["episode"]["r"]
    assert max(float(step[1][0]) for step in steps) > 1


def test_the_frame_limit_truncates_with_the_true_last_observation():
    short = VectorEnvAdapter(AtariVectorEnv(2, game="pong", max_frames=64, **PLAIN))
    long = VectorEnvAdapter(AtariVectorEnv(2, game="pong", **PLAIN))
    for venv in (short, long):
        venv.seed(3)
        venv.reset()
    for action in actions_of(40, 2, 6):
        observations, _, dones, infos = short.step(action)
        expected = long.step(action)[0]
        if dones.any():
            break
    assert dones.all() and all(info["TimeLimit.truncated"] for info in infos)
    for index in range(2):
        np.testing.assert_array_equal(infos[index]["terminal_observation"], expected[index])
        assert not np.array_equal(observations[index], expected[index])
    for action in actions_of(10, 2, 6):  # and the next games run on, without a step that only resets
        before = observations
        observations, _, dones, _ = short.step(action)
        np.testing.assert_array_equal(observations[:, :-1], before[:, 1:])
        assert not dones.any()


def test_equal_seeds_play_equal_games_and_sub_environments_differ():
    settings = EnvSettings("ALE/Pong-v5", kwargs={"flicker": 0.5, "repeat_action_probability": 0.25})
    runs = []
    for _ in range(2):
        venv = make_vec_env(settings, 3, seed=7)
        runs.append(np.stack([venv.reset(), *(venv.step(action)[0] for action in actions_of(60, 3, 6))]))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][:, 0], runs[0][:, 1])


@pytest.mark.parametrize("colours", [1, 3])
def test_flicker_blanks_single_frames_at_its_rate_and_nothing_else(colours):
    options = dict(game="pong", stack=3, noop_max=0, grayscale=colours == 1, size=36)
    dark, light = AtariVectorEnv(4, flicker=0.3, **options), AtariVectorEnv(4, **options)
    shown, truth = [dark.reset(seed=0)[0]], [light.reset(seed=0)[0]]
    for action in actions_of(300, 4, 6):
        shown.append(dark.step(action)[0])
        truth.append(light.step(action)[0])
    frames, expected = (np.stack(each).reshape(301, 4, 3, -1) for each in (shown, truth))
    blank = (frames == 0).all(axis=3)
    newest = blank[:, :, -1]
    assert abs(newest.mean() - 0.3) < 0.05  # 1204 draws: 0.05 are nearly four standard deviations
    assert 0 < newest[:, 0].mean() < 1 and not np.array_equal(newest[:, 0], newest[:, 1])
    np.testing.assert_array_equal(frames[~blank], expected[~blank])
    np.testing.assert_array_equal(frames[1:, :, :-1], frames[:-1, :, 1:])  # a frame keeps its flicker
    dark.close(), light.close()


def test_colour_is_channels_first_and_averages_to_gray():
    colour = AtariVectorEnv(1, game="seaquest", grayscale=False, stack=2, size=64, noop_max=0)
    gray = AtariVectorEnv(1, game="seaquest", stack=2, size=64, noop_max=0)
    seen, plain = colour.reset(seed=0)[0], gray.reset(seed=0)[0]
    assert seen.shape == (1, 6, 64, 64) and plain.shape == (1, 2, 64, 64)
    luma = np.tensordot([0.299, 0.587, 0.114], seen[0, 3:].astype(float), 1)
    assert np.abs(luma - plain[0, 1]).mean() < 3
    assert colour.render()[0].shape == (64, 64, 3)
    np.testing.assert_array_equal(colour.render()[0], seen[0, 3:].transpose(1, 2, 0))
    np.testing.assert_array_equal(gray.render()[0][..., 2], plain[0, 1])


def test_the_previous_action_and_reward_are_added_to_the_frames():
    settings = EnvSettings("ALE/Pong-v5", kwargs={"stack": 1}, previous_action=True, previous_reward=True)
    venv = make_vec_env(settings, 2, seed=0)
    assert venv.observation_space["observation"].shape == (1, 84, 84)
    venv.reset()
    observations, rewards, _, _ = venv.step(np.array([2, 5]))
    assert observations["previous_action"].argmax(axis=1).tolist() == [2, 5]
    np.testing.assert_array_equal(observations["previous_reward"][:, 0], rewards)


def test_the_full_action_space_has_all_actions():
    assert AtariVectorEnv(1, game="pong").single_action_space.n == 6
    assert AtariVectorEnv(1, game="pong", full_action_space=True).single_action_space.n == 18


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EnvSettings("ALE/Pnog-v5"), r"env.id = 'ALE/Pnog-v5': unknown environment. Did you mean ALE/Pong-v5\?"),
        (EnvSettings("ALE/Pong-v5", kwargs={"stak": 1}), r"unknown option 'stak'. Did you mean stack\?"),
        (EnvSettings("ALE/Pong-v5", kwargs={"stack": 0}), "stack = 0: must be an integer of at least 1"),
        (EnvSettings("ALE/Pong-v5", kwargs={"flicker": 1.5}), "flicker = 1.5: must be a probability from 0 to 1"),
        (EnvSettings("ALE/Pong-v5", kwargs={"frame_skip": 1}), "max_pool = True: needs frame_skip of at least 2"),
        (EnvSettings("ALE/Pong-v5", max_episode_steps=9), "env.max_episode_steps = 9: .*max_frames"),
    ],
)
def test_invalid_options_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make_vec_env(settings, 1, seed=0)
