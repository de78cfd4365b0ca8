"""The description of an agent at the start of a training, and the warnings about its spaces."""

import json
import warnings

import gymnasium as gym
import minigrid  # noqa: F401  (registers its ids)
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from ntm_rl import MemoryPPO
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.policy.description import SuspiciousSpaces, describe
from ntm_rl.agents.policy.policies import policy_class_for
from ntm_rl.envs import EnvSettings, make_vec_env

TINY = {
    "n_steps": 8,
    "batch_size": 8,
    "device": "cpu",
    "policy_kwargs": {"core": "lstm", "core_kwargs": {"hidden_size": 4}},
}
BYTES, PIXELS = spaces.Box(0, 255, (40, 40), np.uint8), spaces.Box(0, 1, (40, 40, 3))
COIN = spaces.Discrete(2)


class Anything(gym.Env):
    """Shows random observations of any space, and takes any actions."""

    def __init__(self, observation_space, action_space=COIN):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, True, False, {}


gym.register("Anything-v0", entry_point=Anything)


def described(env_id="Anything-v0", /, observation_space=None, action_space=COIN, **settings):
    """Returns the lines of a training, and the warnings of the same agent made in Python."""
    kwargs = {} if observation_space is None else {"observation_space": observation_space, "action_space": action_space}
    made = EnvSettings(env_id, kwargs, **settings)
    env = make_vec_env(made, 2, 0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SuspiciousSpaces)
        model = MemoryPPO(policy_class_for(env.observation_space), env, **TINY)
    lines = describe(model.policy, model.get_env(), made)
    return lines, [str(each.message) for each in told if each.category is SuspiciousSpaces]


def test_an_ordinary_environment_is_described_without_a_warning():
    lines, told = described("Pendulum-v1", normalize_observation=True, previous_action=True)
    assert lines == [
        "Pendulum-v1: reads observation: vector [3] float32, normalised by running statistics; "
        "previous_action: vector [1] float32, normalised by running statistics | acts in Box [1] float32 in [-2, 2]: "
        "Gaussian with initial mean 0 and standard deviation 1, clipped to these bounds | MultiInputNtmPolicy, core "
        "lstm, shared critic | 2 environments, stepped in turn"
    ]
    assert told == []


@pytest.mark.parametrize(
    "env_id",
    ["CartPole-v1", "MountainCarContinuous-v0", "Acrobot-v1", "FrozenLake-v1", "Blackjack-v1", "ntm_rl/Copy-v0"],
)
def test_ordinary_environments_are_not_warned_of(env_id):
    lines, told = described(env_id)
    assert told == [] and not any("warning" in line for line in lines)


def test_images_say_their_network_and_vectors_how_they_are_scaled():
    space = spaces.Dict(
        view=BYTES,
        inner=spaces.Dict(small=spaces.Box(0, 255, (10, 10, 3), np.uint8), far=spaces.Box(-1e5, 1e5, (2,))),
        start=spaces.Discrete(3, start=2),
    )
    lines, told = described("Anything-v0", space, normalize_observation=True)
    assert told == []
    for part in (
        "view: image [1, 40, 40] uint8, scaled by 1/255, read by the Nature CNN",
        "inner/small: image [3, 10, 10] uint8, scaled by 1/255, read by IMPALA's ResNet",
        "inner/far: vector [2] float32, normalised by running statistics",
        "view: image [40, 40] uint8, read as [1, 40, 40] uint8",
        "start: Discrete(3, start=2), read as 3 numbers, discrete ones one-hot",
    ):
        assert part in lines[0]


def test_line_breaks_and_bidirectional_marks_in_names_are_escaped():
    space = spaces.Dict({"a\nb": spaces.Box(-1, 1, (2,)), "\u202eback \x1b[31m": spaces.Box(-1, 1, (1,))})
    lines, _ = described("Anything-v0", space)
    assert all(line.isprintable() for line in lines)
    assert "a\\nb: vector [2] float32" in lines[0] and "\\u202eback \\x1b[31m: vector" in lines[0]


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Box(0, 1, (40, 40)), COIN, "looks like an image [40, 40], but is read as 1,600 numbers"),
        (spaces.Box(-np.inf, np.inf, (40, 40, 3)), COIN, "CNNs read uint8 with bounds 0 and 255, and floats"),
        (spaces.Dict(v=spaces.Box(0, 9, (40, 40, 3))), COIN, "observation 'v' looks like an image [40, 40, 3]"),
        (spaces.Box(0, 255, (128,), np.uint8), COIN, "values up to 255, which an MLP reads unscaled"),
        (COIN, spaces.Box(0, 10_000, (1,)), "bounds [0, 10000] are far from [-1, 1]"),
        (COIN, spaces.Box(100, 101, (2,)), "use env.rescale_action=true"),
        (COIN, spaces.Box(-0.01, 0.01, (2,)), "use env.rescale_action=true"),
        (COIN, spaces.Box(0, 255, (2,), np.uint8), "use env.rescale_action=true"),
    ],
    ids=str,
)
def test_suspicious_spaces_are_warned_of_in_the_description_and_in_python(observation, action, message):
    lines, told = described("Anything-v0", observation, action)
    assert len(told) == 1 and message in told[0]
    assert f"warning: {told[0]}" in lines


def test_scaled_actions_are_described_without_a_warning():
    lines, told = described("Anything-v0", COIN, spaces.Box(0, 10_000, (1,)), rescale_action=True)
    assert told == [] and "then scaled to the environment's (env.rescale_action)" in lines[0]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (BYTES, "use CnnNtmPolicy and ntm_rl.envs.make_vec_env"),
        (PIXELS, "use CnnNtmPolicy and ntm_rl.envs.make_vec_env"),
    ],
    ids=str,
)
def test_images_in_a_users_own_vector_environment_for_an_mlp_are_warned_of(space, message):
    with pytest.warns(SuspiciousSpaces, match=message):
        MemoryPPO("MlpNtmPolicy", DummyVecEnv([lambda: Anything(space)]), **TINY)


def test_images_normalised_by_vecnormalize_are_warned_of():
    env = VecNormalize(DummyVecEnv([lambda: Anything(spaces.Dict(v=spaces.Box(0, 255, (40, 40, 3), np.uint8)))]))
    with pytest.warns(SuspiciousSpaces, match=r"'v' looks like an image.*exclude images from VecNormalize"):
        MemoryPPO("MultiInputNtmPolicy", env, **TINY)


def test_missions_are_read_or_described_as_left_out():
    lines, _ = described("MiniGrid-GoToDoor-5x5-v0")
    assert "mission: read as 6 words, one-hot out of 18" in lines[0]
    lines, _ = described("MiniGrid-GoToDoor-5x5-v0", mission="none")
    assert "warning: the agent does not read the mission, which changes; use env.mission=auto" in lines
    assert "mission: left out, it never changes" in described("MiniGrid-MemoryS7-v0")[0][0]


def test_normalisation_without_effect_is_warned_of():
    assert any(
        "env.normalize_observation = true has no effect" in line
        for line in described("Anything-v0", BYTES, normalize_observation=True)[0]
    )


def test_a_training_on_the_command_line_begins_with_one_line(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    file.write_text("env: {id: Pendulum-v1, rescale_action: true}\n")
    small = [
        "n_envs=2",
        "total_timesteps=64",
        "ppo.n_steps=32",
        "ppo.batch_size=32",
        "core=lstm",
        f"run_dir={tmp_path}",
    ]
    assert main(["train", str(file), *small]) == 0
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("Pendulum-v1: reads vector [3]")
    ]
    assert line.index(" | acts in Box [1] float32 in [-1, 1]: ") < line.index(" | MlpNtmPolicy, core lstm")
    assert line.endswith(
        " | 2 environments, stepped in turn | n_steps 32, sequence_length 32, batch_size 32 | 64 steps"
    )


class Minimap(Anything):
    """Shows a small image beside a vector, and takes actions from 0 to 1,000, of which one is paid for being large."""

    def __init__(self):
        view, speed = spaces.Box(0, 255, (10, 10), np.uint8), spaces.Box(-500, 500, (2,))
        super().__init__(spaces.Dict({"view.top": view, "speed": speed}), spaces.Box(0, 1000, (1,)))

    def step(self, action):
        return self.observation_space.sample(), float(action[0]), True, False, {}


gym.register("Minimap-v0", entry_point=Minimap)


@pytest.mark.parametrize("extractor", ["auto", "impala"])
def test_a_small_image_in_a_dict_is_trained_resumed_and_evaluated_on_scaled_actions(tmp_path, capsys, extractor):
    file = tmp_path / "my.yaml"
    file.write_text("env: {id: Minimap-v0, rescale_action: true, normalize_observation: true}\n")
    small = ["n_envs=2", "total_timesteps=64", "ppo.n_steps=32", "ppo.n_epochs=1", "core=lstm"]
    assert main(["train", str(file), *small, f"policy.extractor={extractor}", f"run_dir={tmp_path}", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert main(["resume", run, "total_timesteps=128"]) == 0
    assert "view.top: image [1, 10, 10] uint8, scaled by 1/255, read by IMPALA's ResNet" in capsys.readouterr().err
    assert main(["evaluate", run, "--episodes", "4", "--json"]) == 0
    assert 100 < json.loads(capsys.readouterr().out)["mean_return"] < 900  # unscaled actions would be 3 at most


def test_nature_is_refused_for_a_small_image_by_the_name_of_the_observation(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    file.write_text("env: {id: Minimap-v0}\npolicy: {extractor: nature}\n")
    assert main(["train", str(file), "n_envs=8", f"run_dir={tmp_path}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("observation 'view.top': extractor = 'nature': images of 10 x 10 are too small")


def test_image_extractors_are_refused_without_images(tmp_path, capsys):
    assert main(["train", "popgym/repeat_previous_easy", "policy.extractor=impala", f"run_dir={tmp_path}"]) == 2
    assert "policy.extractor = 'impala'" in capsys.readouterr().err.splitlines()[-1]
