"""Suggested ids for unknown ones."""

import subprocess
import sys

import ale_py  # noqa: F401  (registers OpenAI Gym's ids too)
import pytest

from ntm_rl.agents.cli.main import main
from ntm_rl.envs import EnvSettings, make_vec_env
from ntm_rl.envs.names import suggest_id
from ntm_rl.errors import InputError

PONG = [
    "PongNoFrameskip-v4",
    "pong",
    "Pong",
    "Pong-v5",
    "Pong-v0",
    "Pong-ramDeterministic-v4",
    "ALE/Pong",
    "ale/pong-v5",
]


@pytest.mark.parametrize(
    ("name", "env_id"),
    [
        *((name, "ALE/Pong-v5") for name in PONG),
        ("MsPacman", "ALE/MsPacman-v5"),
        ("ms_pacman", "ALE/MsPacman-v5"),
        ("breakut-v5", "ALE/Breakout-v5"),
        ("cartpole", "CartPole-v1"),
        ("CartPole-v9", "CartPole-v1"),
        ("LunarLander-v2", "LunarLander-v3"),
        ("minigrid-memorys7-v0", "MiniGrid-MemoryS7-v0"),
        ("BabyAI-goto_obj", "BabyAI-GoToObj-v0"),
        ("RepeatPreviousEasy", "popgym-RepeatPreviousEasy-v0"),
        ("repeat-copy", "ntm_rl/RepeatCopy-v0"),
        ("my_gym:Pong-v5", "ALE/Pong-v5"),
    ],
)
def test_the_most_similar_id_is_suggested(name, env_id):
    assert suggest_id(name) == f" Did you mean {env_id}?"


def test_a_name_without_a_similar_id_has_no_suggestion():
    assert suggest_id("qwertyuiop-v0") == ""


def test_suggestions_include_families_that_are_not_imported():
    code = "from ntm_rl.envs.names import suggest_id; print(suggest_id('pong'), suggest_id('MemoryS7'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["Did", "you", "mean", "ALE/Pong-v5?", "Did", "you", "mean", "MiniGrid-MemoryS7-v0?"]


@pytest.mark.parametrize("name", [*PONG, "ALE/Pong-v4"])
def test_other_names_of_an_atari_game_are_refused_with_the_id(name):
    with pytest.raises(InputError, match=rf"^env.id = '{name}': unknown environment. Did you mean ALE/Pong-v5\?"):
        make_vec_env(EnvSettings(name, kwargs={"stack": 1}), 2, 0)


def test_the_command_line_answers_in_one_line(capsys, tmp_path):
    assert main(["train", "atari/default", "env.id=PongNoFrameskip-v4", f"run_dir={tmp_path}"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("env.id = 'PongNoFrameskip-v4': unknown environment. Did")
    )
    assert not list(tmp_path.iterdir())
