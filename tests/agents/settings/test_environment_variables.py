"""Environment variables are checked before anything is created."""

import pytest

from ntm_rl.agents.cli.main import main


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WANDB_MODE", "onlin", "WANDB_MODE = 'onlin': must be online, offline or disabled"),
        ("WANDB_BASE_URL", "wandb.example.org", "must begin with http:// or https://"),
        ("OMP_NUM_THREADS", "many", "OMP_NUM_THREADS = 'many': must be a number"),
    ],
)
def test_invalid_environment_variables_are_an_error_before_anything_is_created(
    tmp_path, monkeypatch, capsys, name, value, message
):
    monkeypatch.setenv(name, value)
    assert main(["train", "popgym/repeat_previous_easy", f"run_dir={tmp_path / 'runs'}"]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
