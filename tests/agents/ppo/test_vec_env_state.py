"""The state of the environments in checkpoints."""

from ntm_rl.agents.ppo.checkpoints import load_checkpoint
from ntm_rl.agents.ppo.making import make_model
from ntm_rl.agents.ppo.vec_env_state import curricula
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.agents.tracking.csv_log import read_table
from ntm_rl.agents.training import train
from ntm_rl.envs import make_vec_env
from ntm_rl.envs.algorithmic import curriculum as curriculum_module
from small_trainings import copy_ppo_settings


def test_the_level_of_a_curriculum_survives_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(curriculum_module, "ADVANCE_BELOW", 1.1)  # whoever plays advances
    trained = train(
        copy_ppo_settings(
            tmp_path, "env.kwargs={bits: 1, max_length: 5, curriculum: lookahead}", "total_timesteps=1024"
        ),
        "x",
        show_progress=False,
    )
    _, rows = read_table(trained.run / "progress.csv")
    assert float(rows[-1]["rollout/level"]) > 1
    document = read_tensors(latest_checkpoint(trained.run / "checkpoints"))[1]
    [saved] = document["environment"]["curricula"]
    assert saved["level"] == float(rows[-1]["rollout/level"])
    settings = Run.open(trained.run).settings()
    model = make_model(settings, make_vec_env(settings.env_settings, settings.n_envs, 9))
    load_checkpoint(latest_checkpoint(trained.run / "checkpoints"), model)
    [curriculum] = curricula(model.get_env())
    assert (curriculum.level, curriculum.errors) == (saved["level"], saved["errors"])
