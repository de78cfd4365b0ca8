"""States of vector environments: bit-identical continuation, and rejection of invalid states."""

import copy

import numpy as np
import pytest

from ntm_rl.envs.batched import atari
from ntm_rl.envs.factory import EnvSettings
from ntm_rl.envs.sb3.making import make_vec_env
from ntm_rl.errors import InputError

SETTINGS = [
    EnvSettings("CartPole-v1"),
    EnvSettings("CartPole-v1", mask_velocity=True),
    EnvSettings("popgym-RepeatPreviousEasy-v0", previous_action=True, previous_reward=True),
    EnvSettings("popgym-RepeatFirstEasy-v0"),
    EnvSettings("popgym-CountRecallMedium-v0"),
    EnvSettings("popgym-AutoencodeEasy-v0", previous_action=True),
    EnvSettings("popgym-HigherLowerEasy-v0"),
    EnvSettings("popgym-ConcentrationEasy-v0", previous_reward=True),
    EnvSettings("popgym-NoisyPositionOnlyCartPoleEasy-v0"),
    EnvSettings("popgym-BattleshipEasy-v0", previous_action=True),
    EnvSettings("popgym-MineSweeperEasy-v0"),
    EnvSettings("popgym-MultiarmedBanditEasy-v0"),
    EnvSettings("popgym-NoisyPositionOnlyPendulumHard-v0"),
    EnvSettings("popgym-VelocityOnlyCartpoleEasy-v0"),
    EnvSettings("ntm_rl/PassiveTMaze-v0"),
    EnvSettings("ntm_rl/MemoryChain-v0", kwargs={"bits": 3}),
    EnvSettings("ntm_rl/Copy-v0"),
    EnvSettings("ntm_rl/DynamicNGrams-v0"),
    EnvSettings("ntm_rl/AssociativeRecall-v0", previous_action=True),
    EnvSettings("ALE/Breakout-v5", kwargs={"flicker": 0.3, "repeat_action_probability": 0.25, "stack": 2}),
    EnvSettings("ALE/Pong-v5", kwargs={"stack": 1, "grayscale": False}, previous_action=True),
]


def same(first, second) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return np.array_equal(first, second)


def play(venv, rng: np.random.Generator, steps: int) -> list:
    space = venv.action_space
    space.seed(int(rng.integers(2**31)))
    return [venv.step(np.stack([space.sample() for _ in range(venv.num_envs)])) for _ in range(steps)]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: each.id)
def test_a_restored_state_continues_bit_identically(settings, monkeypatch):
    monkeypatch.setattr(atari, "MAX_STEPS_FROM_SEED", 150)  # so that ALE's copies are seeded anew on the way
    venv, other = make_vec_env(settings, 3, 5), make_vec_env(settings, 3, 77)
    venv.reset(), other.reset()
    seen = play(venv, np.random.default_rng(0), 333)[-1][0]
    play(other, np.random.default_rng(1), 50)
    state = venv.get_state()
    kept = copy.deepcopy(state)
    expected = play(venv, np.random.default_rng(2), 300)
    assert same(state["envs"], kept["envs"])  # playing on did not change it
    assert same(other.set_state(state), seen)
    for mine, theirs in zip(expected, play(other, np.random.default_rng(2), 300), strict=True):
        assert all(same(mine[part], theirs[part]) for part in range(3))
        for info, their_info in zip(mine[3], theirs[3], strict=True):
            assert info.keys() == their_info.keys()
            if "episode" in info:
                assert (info["episode"]["r"], info["episode"]["l"]) == (
                    their_info["episode"]["r"],
                    their_info["episode"]["l"],
                )
    assert any(step[2].any() for step in expected) or settings.id.startswith("ALE/Pong")
    venv.close(), other.close()


def test_a_resume_replays_a_game_from_its_last_seed(monkeypatch):
    monkeypatch.setattr(atari, "MAX_STEPS_FROM_SEED", 100)
    envs = atari.AtariVectorEnv(2, game="breakout", noop_max=3)
    envs.reset(seed=3)
    rng, counts = np.random.default_rng(0), []
    for _ in range(600):
        *_, terminated, truncated, _ = envs.step(rng.integers(0, 4, 2))
        envs.reset(options={"reset_mask": terminated | truncated})
        counts.append(envs.get_state()["steps"].copy())
    counts = np.array(counts)
    assert (np.diff(counts, axis=0) < 0).any(axis=0).all()  # both were seeded anew
    assert counts[-1][0] != counts[-1][1] and counts.max() < 600


def spoilt(state, path: tuple[str, ...], value):
    state = copy.deepcopy(state)
    part = state
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value(part[path[-1]]) if callable(value) else value
    return state


def with_entry(number):
    def change(array):
        array.flat[0] = number
        return array

    return change


@pytest.mark.parametrize(
    ("env_id", "path", "value"),
    [
        ("CartPole-v1", ("returns",), None),
        ("CartPole-v1", ("lengths",), with_entry(-1)),
        ("CartPole-v1", ("envs",), 3),
        ("CartPole-v1", ("envs", "state"), with_entry(np.nan)),
        ("CartPole-v1", ("envs", "state"), lambda array: array[:, :1]),
        ("CartPole-v1", ("envs", "time"), with_entry(500)),
        ("CartPole-v1", ("envs", "time"), lambda array: array.astype(np.int32)),
        ("CartPole-v1", ("envs", "generator"), {}),
        ("CartPole-v1", ("envs", "generator", "state", "state"), 2**200),
        ("popgym-CountRecallEasy-v0", ("envs", "script"), with_entry(2)),
        ("popgym-CountRecallEasy-v0", ("envs", "time"), with_entry(51)),
        ("popgym-ConcentrationEasy-v0", ("envs", "first"), with_entry(52)),
        ("ntm_rl/Copy-v0", ("envs", "playback", "time"), with_entry(10**6)),
        ("ntm_rl/Copy-v0", ("envs", "playback", "lengths"), with_entry(10**6)),
        ("ntm_rl/Copy-v0", ("envs", "playback", "difficulties"), [{"length": 0}, {"length": 1}]),
        ("ntm_rl/Copy-v0", ("envs", "playback", "targets"), with_entry(2)),
        ("ntm_rl/Copy-v0", ("envs", "generators"), []),
        ("ALE/Pong-v5", ("envs", "actions"), with_entry(6)),
        ("ALE/Pong-v5", ("envs", "steps"), with_entry(10**9)),
        ("ALE/Pong-v5", ("envs", "seeds"), with_entry(-1)),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_an_invalid_state_is_refused_and_changes_nothing(env_id, path, value):
    venv = make_vec_env(EnvSettings(env_id), 2, 0)
    venv.reset()
    play(venv, np.random.default_rng(0), 5)
    before = venv.get_state()
    with pytest.raises(InputError):
        venv.set_state(spoilt(before, path, value))
    after = venv.get_state()
    assert same({**before, "envs": None}, {**after, "envs": None}) and same(before["envs"], after["envs"])
    venv.close()


def test_environments_that_cannot_save_their_state_return_none():
    import gymnasium as gym

    from ntm_rl.envs.sb3.adapter import VectorEnvAdapter
    from ntm_rl.envs.wrappers.previous_step import PreviousStepVector

    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP
    )
    assert VectorEnvAdapter(PreviousStepVector(envs)).get_state() is None
