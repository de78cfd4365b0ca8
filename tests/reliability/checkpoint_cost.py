"""What checkpoints cost: their share of a training's time at one every 50,000 environment steps.

    python tests/reliability/checkpoint_cost.py

Trains the packaged config `popgym/repeat_previous_easy` for 150,000 steps and takes the time of each checkpoint, on the
clock on the wall (writing, syncing and renaming included) and the processor's.
"""

import json
import sys
import tempfile
import time

from stable_baselines3.common.callbacks import CallbackList

from ntm_rl.agents.ppo.callbacks import CheckpointCallback
from ntm_rl.agents.ppo.making import make_model
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.tracking.logger import make_logger
from ntm_rl.envs.sb3.making import make_vec_env

EVERY, STEPS = 50_000, 150_000


class Timed(CheckpointCallback):
    """Takes the time of every checkpoint."""

    wall, cpu, count = 0.0, 0.0, 0

    def save(self) -> None:
        began = time.perf_counter(), time.process_time()
        super().save()
        self.wall += time.perf_counter() - began[0]
        self.cpu += time.process_time() - began[1]
        self.count += 1


def main() -> int:
    """Measures and prints."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        settings = load_settings("popgym/repeat_previous_easy", ["wandb=disabled", f"run_dir={folder}"])
        assert isinstance(settings, PpoTrainingSettings)
        model = make_model(settings, make_vec_env(settings.env_settings, settings.n_envs, settings.seed))
        run = Run.create(settings, "cost")
        model.set_logger(make_logger(run.path, None))
        checkpoints = Timed(run.checkpoints, EVERY, 3)
        began = time.perf_counter(), time.process_time()
        model.learn(STEPS, CallbackList([checkpoints]))
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        size = max(path.stat().st_size for path in run.checkpoints.iterdir())
    result = {
        "steps": model.num_timesteps,
        "checkpoints": checkpoints.count,
        "MB each": round(size / 1e6, 2),
        "ms each, wall": round(1e3 * checkpoints.wall / checkpoints.count, 1),
        "ms each, CPU": round(1e3 * checkpoints.cpu / checkpoints.count, 1),
        "share of the time, wall": f"{checkpoints.wall / wall:.2%}",
        "share of the time, CPU": f"{checkpoints.cpu / cpu:.2%}",
        "steps/s, wall": round(model.num_timesteps / wall),
    }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
