"""Configs found by name: files, packaged configs and environments; packaged configs do not depend on the defaults."""

from pathlib import Path

import pytest
import yaml

from ntm_rl.agents import defaults
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.sources import config_names, read_config
from ntm_rl.errors import InputError

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.mark.parametrize(
    "env_id",
    [
        "CartPole-v1",
        "popgym-BattleshipEasy-v0",
        "ALE/Pong-v5",
        "ntm_rl/MemoryChain-v0",
        "my_module:MyEnv-v0",
        "a.b:Mine",
    ],
)
def test_an_environment_has_the_default_settings(env_id):
    settings = load_settings(env_id, ["seed=3"])
    assert settings.env.id == env_id and settings.seed == 3
    assert settings.ppo.learning_rate == defaults.LEARNING_RATE and settings.core == defaults.CORE
    Path("same.yaml").write_text(read_config(env_id)[0])
    assert load_settings("same.yaml", ["seed=3"]) == settings


def test_a_file_comes_before_an_environment():
    Path("CartPole-v1").write_text("env: {id: Pendulum-v1}\n")
    assert load_settings("CartPole-v1").env.id == "Pendulum-v1"


def test_a_folder_of_its_name_does_not_hide_an_environment():
    Path("CartPole-v1").mkdir()
    assert load_settings("CartPole-v1").env.id == "CartPole-v1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPole", r"Did you mean CartPole-v1\?"),
        ("pong", r"Did you mean atari/pong or ALE/Pong-v5\?"),
        ("PongNoFrameskip-v4", r"Did you mean ALE/Pong-v5\?"),
        ("popgym-RepeatPrevious-v0", "or popgym-RepeatPrevious(Easy|Medium|Hard)-v0"),
        ("popgym/repeat_previus_easy", r"Did you mean popgym/repeat_previous_easy or popgym-RepeatPreviousEasy-v0\?"),
        ("cartpole-v1.yaml", "`ntm-rl list configs` and `ntm-rl list envs` list them"),
        ("MyEnv-v0", "an environment of your own is module:name"),
        ("my module:MyEnv", "must be like CartPole-v1, or my_module:MyEnv-v0"),
    ],
)
def test_an_unknown_name_is_one_error_with_suggestions_of_both_kinds(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_settings(name)
    assert "\n" not in str(caught.value)


STATED = ("learning_rate", "learning_rate_schedule", "adam_epsilon", "n_steps", "batch_size", "n_epochs", "gamma")
STATED += ("gae_lambda", "ent_coef")


@pytest.mark.parametrize("config", config_names())
def test_packaged_configs_state_what_their_results_depend_on(config):
    """So that another default leaves the documented results valid."""
    data = yaml.safe_load(read_config(config)[0])
    if "env" not in data:
        return
    assert {"n_envs", "total_timesteps", "core"} <= data.keys()
    assert set(STATED) <= data["ppo"].keys()
    assert {"critic", "net_arch", "activation"} <= data["policy"].keys()
