"""Action masks through the command line, in an environment that raises an error for an excluded action."""

import json
from pathlib import Path

import pytest

import masked_envs
from ntm_rl.agents.benchmark.random_play import random_returns
from ntm_rl.agents.cli.exit_codes import BAD_INPUT
from ntm_rl.agents.cli.main import main
from ntm_rl.agents.runs.run import Run
from ntm_rl.envs import EnvSettings
from small_trainings import TINY_LSTM, TINY_PPO

STRICT, FOLDER = "masked_envs:Strict", str(Path(masked_envs.__file__).parent)
TINY = [*TINY_PPO, *TINY_LSTM, f"env.path={FOLDER}", "total_timesteps=128"]


def train(folder: Path, capsys, *overrides: str, env: str = STRICT) -> tuple[str, str]:
    """Returns a run and what the training printed to standard error."""
    assert main(["train", env, *TINY, f"run_dir={folder}", "--json", *overrides]) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out)["run"], printed.err


@pytest.mark.parametrize("offers", ["method", "info"])
def test_a_run_uses_masks_in_training_resume_and_evaluation(offers, tmp_path, capsys):
    kwargs = f"env.kwargs={{kind: multi_discrete, offers: {offers}}}"
    run, printed = train(tmp_path, capsys, kwargs, "env.previous_action=true", "env.normalize_observation=true")
    assert printed.count("with action masks") == 1
    assert Run.open(run).ppo_settings().env.action_masks is True  # decided once
    assert main(["resume", run, "total_timesteps=256"]) == 0
    for options in ([], ["--stochastic"]):
        assert main(["evaluate", run, "--episodes", "3", *options]) == 0


def test_films_of_a_run_with_masks(tmp_path, capsys):
    pytest.importorskip("imageio.v3")
    run, _ = train(tmp_path, capsys)
    assert main(["record", run, "--episodes", "3", "--out", str(tmp_path / "film.mp4")]) == 0
    assert "3 of 3 episodes ended" in capsys.readouterr().out


def test_without_masks_nothing_is_said(tmp_path, capsys):
    run, printed = train(tmp_path, capsys, env="CartPole-v1")
    assert "with action masks" not in printed
    assert Run.open(run).ppo_settings().env.action_masks == "auto"


def test_masks_can_be_switched_off(tmp_path, capsys):
    assert main(["train", STRICT, *TINY, f"run_dir={tmp_path}", "env.action_masks=false"]) != 0
    assert "IllegalActionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "override", "message"),
    [
        ("CartPole-v1", "env.action_masks=true", "env.action_masks = True: the environment has neither a method"),
        ("Pendulum-v1", "env.action_masks=true", "env.action_masks = True: the environment has neither a method"),
        ("CartPole-v1", "env.action_masks=on_demand", "env.action_masks = 'on_demand': must be true or false, or auto"),
    ],
)
def test_masks_that_do_not_exist_are_one_line(env, override, message, tmp_path, capsys):
    assert main(["train", env, *TINY, f"run_dir={tmp_path}", override]) == BAD_INPUT
    line = capsys.readouterr().err.strip().splitlines()[-1]  # after the config
    assert message in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize("offers", ["method", "info"])
@pytest.mark.parametrize("kind", masked_envs.SPACES)
def test_random_play_obeys_masks(kind, offers):
    settings = EnvSettings(STRICT, {"kind": kind, "offers": offers}, path=FOLDER)
    assert len(random_returns(settings, 5, 0)) == 5


def test_random_play_of_concentration_earns_more_with_masks():
    """Only face-down cards are turned: no turn is lost to a card that is already face up."""
    plain, masked = (
        random_returns(EnvSettings("popgym-ConcentrationEasy-v0", action_masks=use), 32, 0).mean()
        for use in (False, True)
    )
    assert masked > plain + 0.5
