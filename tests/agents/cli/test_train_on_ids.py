"""`ntm-rl train ENV_ID`: trainings without a config, end to end."""

from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from command_line import as_json, done, refused, run
from small_trainings import TINY_LSTM

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
# A rollout of one short sequence, as the defaults are too large for a test.
SMALL = (*TINY_LSTM, "wandb=disabled", "n_envs=2", "ppo.n_steps=16", "total_timesteps=64")

MODULE = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Base(gym.Env):
    action_space = spaces.Discrete(2)

    def __init__(self, size=3):
        self.size = size
        assert size < 10

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time == self.size, False, {}


class Image(Base):
    observation_space = spaces.Box(0, 255, (12, 12, 3), np.uint8)


class Parts(Base):
    observation_space = spaces.Dict(
        camera=spaces.Box(0, 255, (12, 12), np.uint8), speed=spaces.Box(-1, 1, (2,)), hand=spaces.Discrete(3, start=1)
    )
    action_space = spaces.MultiDiscrete([2, 3])


class Arm(Base):
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Box(0, 5, (2,), np.int64)


class Words(Base):
    observation_space = spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Text(4)])


gym.register("Limited-v0", entry_point="{module}:Image", max_episode_steps=130)
"""


@pytest.fixture
def module(request):
    """Name of a module in the current folder."""
    name = f"games_{abs(hash(request.node.name)) % 10**8}"  # modules stay imported
    Path(f"{name}.py").write_text(MODULE.replace("{module}", name))
    yield name
    gym.registry.pop("Limited-v0", None)


def summary(told: str) -> str:
    (line,) = [line for line in told.splitlines() if ": reads " in line]
    return line


def test_a_training_without_a_config_is_resumed_and_evaluated_with_the_sizes_that_were_chosen(capsys):
    code, out, told = run(capsys, "train", "CartPole-v1", *TINY_LSTM, "wandb=disabled", "total_timesteps=100")
    assert code == 0 and "Finished after 4,096 environment steps" in out
    assert summary(told) == (
        "CartPole-v1: reads vector [4] float32, not scaled | acts in Discrete(2) | MlpNtmPolicy, core lstm, shared "
        "critic | 8 environments, stepped as one batch (native) | n_steps 512, sequence_length 512, batch_size 1024 | "
        "100 steps, rounded up to 4,096: whole rollouts of 4,096"
    )
    (folder,) = Path("runs/CartPole-v1").iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    sizes = {key: config["ppo"][key] for key in ("n_steps", "sequence_length", "batch_size")}
    assert config["n_envs"] == 8 and sizes == {"n_steps": 512, "sequence_length": 512, "batch_size": 1024}
    assert "Finished after 8,192 environment steps" in done(capsys, "resume", folder, "total_timesteps=8192")
    assert as_json(capsys, "evaluate", folder, "--episodes", "2")["ended"] == 2
    done(capsys, "resume", folder, "total_timesteps=12288", "ppo.n_steps=auto", "ppo.batch_size=auto")
    assert yaml.safe_load((folder / "config.yaml").read_text())["ppo"] == config["ppo"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Image", ["reads image [3, 12, 12] uint8", "CnnNtmPolicy", "changed: image [12, 12, 3] uint8"]),
        ("Parts", ["MultiInputNtmPolicy", "hand: Discrete(3, start=1), read as 3 numbers", "acts in MultiDiscrete"]),
        ("Arm", ["reads vector [2]", "MlpNtmPolicy", "acts in Box [2] int64 in [0, 5]", "bounds, rounded"]),
        ("Limited-v0", ["image", "n_steps 16"]),
    ],
)
def test_an_environment_of_a_module_trains_with_the_policy_for_its_observations(capsys, module, name, parts):
    code, _, told = run(capsys, "train", f"{module}:{name}", *SMALL, "env.kwargs.size=4")
    assert code == 0 and all(part in summary(told) for part in parts)
    (folder,) = Path(f"runs/{module}-{name}").iterdir()
    assert yaml.safe_load((folder / "config.yaml").read_text())["env"]["path"] == str(Path.cwd())
    assert as_json(capsys, "evaluate", folder, "--episodes", "2")["mean_length"] == 4


@pytest.mark.parametrize(
    ("env_id", "part"),
    [
        ("popgym-BattleshipEasy-v0", "reads number from 0 to 1, one-hot"),
        ("ntm_rl/MemoryChain-v0", "reads vector [3] float32"),
        ("ALE/Pong-v5", "CnnNtmPolicy"),
    ],
)
def test_ids_of_other_packages_train(capsys, env_id, part):
    extra = ["env.kwargs.size=44", "env.kwargs.stack=1"] if env_id.startswith("ALE/") else []
    code, _, told = run(capsys, "train", env_id, *SMALL, *extra)
    assert code == 0 and part in summary(told)
    assert list(Path("runs", env_id).iterdir())


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("Words", "seed=1", "its observation space Tuple"),
        ("Imag", "seed=1", "Did you mean Image?"),
        ("Limited-v1", "seed=1", "Limited-v1"),
        ("Image", "env.kwargs.size=10", "its constructor raised an error"),
        ("Image", "env.kwargs.length=3", "unexpected keyword argument 'length'"),
        ("Image", "ppo.batch_size=1009", "must be a multiple of ppo.sequence_length = 128"),
    ],
)
def test_an_environment_that_cannot_be_trained_on_is_one_error_and_leaves_no_run(
    capsys, module, name, override, message
):
    code, out, told = run(capsys, "train", f"{module}:{name}", override)
    assert (code, out) == (2, "") and message in told.splitlines()[-1] and "Traceback" not in told
    assert not Path("runs").exists()


def test_settings_of_an_environment_are_shown_and_copied(capsys):
    assert yaml.safe_load(done(capsys, "show", "CartPole-v1", "seed=3"))["seed"] == 3
    assert "ppo.n_steps: int | Literal['auto'] = auto" in done(capsys, "show", "CartPole-v1", "--keys")
    done(capsys, "copy", "CartPole-v1", "mine.yaml")
    assert yaml.safe_load(Path("mine.yaml").read_text()) == {"env": {"id": "CartPole-v1"}}
    assert "Did you mean CartPole-v1?" in refused(capsys, "show", "CartPole")
