"""Settings and runs of trainings that take a second or less."""

from pathlib import Path

from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import AnySettings, load_settings
from ntm_rl.agents.training import train

# A rollout has 64 steps.
TINY_PPO = ("n_envs=2", "ppo.n_steps=32", "ppo.sequence_length=32", "ppo.batch_size=32", "ppo.n_epochs=1")
TINY_PPO += ("wandb=disabled",)
TINY_LSTM = ("core=lstm", "memory.lstm.hidden_size=8")
TINY_NTM = ("memory.ntm.slots=5", "memory.ntm.hidden_size=8")
TINY_COPY = (
    *("task.copy.max_length=3", "task.copy.bits=2", "total_sequences=60", "validation.every=20", "log_every=20"),
    *("validation.sequences=8", "validation.longer=[{length: 5}]", "checkpoint.every=20", "wandb=disabled"),
)
SMALL_NTM = ("memory.ntm.slots=8", "memory.ntm.width=4", "memory.ntm.hidden_size=12")


def train_run(config: str, folder: Path, *overrides: str) -> Run:
    """Trains a config and returns its run, a subfolder of `folder`."""
    settings = load_settings(config, [*overrides, f"run_dir={folder}"])
    return Run.open(train(settings, Path(config).stem, show_progress=False).run)


def copy_settings(folder: Path, *overrides: str) -> AnySettings:
    """Settings of a supervised training of 60 sequences of the copy task."""
    return load_settings("algorithmic/copy", [*TINY_COPY, *SMALL_NTM, f"run_dir={folder}", *overrides])


def train_copy(folder: Path, *overrides: str) -> Run:
    """A supervised run with `copy_settings`."""
    return train_run("algorithmic/copy", folder, *TINY_COPY, *SMALL_NTM, *overrides)


def copy_ppo_settings(folder: Path, *overrides: str) -> AnySettings:
    """Settings of a PPO training on the copy task, whose network fits that of `train_copy`."""
    task = ("memory.ntm.controller=lstm", "env.kwargs={bits: 2, max_length: 3}", "n_envs=16", "wandb=disabled")
    return load_settings("algorithmic/copy_ppo", [*SMALL_NTM, *task, f"run_dir={folder}", *overrides])
