"""Kill-and-resume, again and again: small trainings meet random faults and must end as if nothing had happened.

    python tests/reliability/soak.py --minutes 60 [--seed 0]

Every training is first run through without a fault. Then the same training is started by the command line's own code in
a forked process (torch is imported once, here), interrupted, and resumed by `ntm-rl resume`, until it is finished; its
last checkpoint, its agent, `progress.csv` and TensorBoard's events must be those of the first, to the last bit, clocks
apart. Faults: SIGKILL at a random instant; SIGKILL at a chosen stage of a checkpoint's write; a full disk (a small
tmpfs, for which mounting must be allowed); folders without write permission; a damaged newest checkpoint; a clock that
jumps. After every fault the newest good checkpoint from before it must still be there and be good.
"""

import argparse
import datetime
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from soak_faults import FAULTS, full_disk
from soak_training import SoakError, Training, outcome, wait

SMALL = ["memory.ntm.slots=5", "memory.ntm.hidden_size=8", "wandb=disabled", "checkpoint.keep=3"]
PPO = ["n_envs=4", "ppo.n_steps=32", "ppo.sequence_length=16", "ppo.batch_size=64", "ppo.n_epochs=1"]
PPO += ["total_timesteps=2560", "checkpoint.every=256"]
LSTM = ["env.id=popgym-ConcentrationEasy-v0", "memory.lstm.hidden_size=8"]
SCENARIOS = {
    "cards": ["popgym/repeat_previous_easy", *SMALL, *PPO, "env.previous_action=true", "env.previous_reward=true"],
    "cartpole": [
        *("popgym/repeat_previous_easy", *SMALL, *PPO, "env.id=CartPole-v1", "ppo.learning_rate_schedule=linear"),
        *("env.normalize_observation=true", "env.normalize_reward=true", "ppo.stats_window_size=10"),
    ],
    "concentration": ["popgym/repeat_previous_easy", *SMALL, *PPO, "core=lstm", *LSTM],
    "copy": [
        *("popgym/repeat_previous_easy", *SMALL, *PPO, "env.id=ntm_rl/Copy-v0", "policy.critic=separate"),
        *("env.kwargs={curriculum: lookahead, bits: 1, max_length: 4}", "ppo.recompute_states=true"),
    ],
    "pong": [
        *("popgym/repeat_previous_easy", *SMALL, *PPO, "env.id=ALE/Pong-v5", "n_envs=2", "total_timesteps=512"),
        *("env.kwargs={stack: 1, flicker: 0.3, size: 44, repeat_action_probability: 0.25}", "checkpoint.every=64"),
    ],
    "supervised": [
        *("algorithmic/copy", *SMALL, "task.copy.max_length=4", "batch_size=4", "curriculum=lookahead"),
        *("total_sequences=2400", "validation.every=300", "validation.sequences=8", "log_every=200"),
        "checkpoint.every=130",
    ],
}


@dataclass
class Counts:
    """What happened so far."""

    faults: Counter[str] = field(default_factory=Counter)
    trainings: int = 0
    checkpoints_lost: int = 0


def interrupt_until_done(
    training: Training, seconds: float, counts: Counts, is_full: Callable[[], bool], can_fill: bool
) -> None:
    """Disturbs a training until it is finished; checks after each fault that no checkpoint was lost."""
    best, done = -1, False
    while not done:
        kinds = [kind for kind in FAULTS if can_fill or kind is not full_disk]
        kind = training.rng.choices(kinds, [FAULTS[kind] for kind in kinds])[0]
        if is_full():
            name, done = "no fault in time", wait(training.start()) == 0
        else:
            name = kind(training, seconds)
            done = name == "no fault in time"
        steps = training.good_steps()
        if name == "kill, then a damaged checkpoint":
            best = steps[-1]  # the soak itself spoilt the newest
        if best >= 0 and (not steps or steps[-1] < best):
            counts.checkpoints_lost += 1
            raise SoakError(f"{name}: checkpoint of step {best} is lost; left are {steps}")
        best = steps[-1] if steps else -1
        if not done:
            counts.faults[name] += 1


def make_folder(root: Path, name: str) -> Path:
    """Makes a folder of a training."""
    folder = root / name
    folder.mkdir()
    return folder


def soak(root: Path, minutes: float, seed: int, small_disk: Path | None, max_faults: int | None) -> Counts:
    """Runs until the time is over or that many faults have happened; raises SoakError at the first broken promise."""
    deadline, counts, rng = time.monotonic() + 60 * minutes, Counts(), random.Random(seed)
    expected: dict[str, tuple[dict[str, object], float]] = {}

    def is_full() -> bool:
        over = max_faults is not None and counts.faults.total() >= max_faults
        return over or time.monotonic() > deadline

    names = list(SCENARIOS)
    while not is_full():
        name = names[counts.trainings % len(names)]
        if name not in expected:
            first = Training(SCENARIOS[name], make_folder(root, f"{name}-whole"), rng)
            began = time.monotonic()
            if (code := wait(first.start())) != 0:
                log = (first.folder / "log.txt").read_text()[-2000:]
                raise SoakError(f"{name}: exit code {code} without any fault:\n{log}")
            expected[name] = outcome(first), (time.monotonic() - began) / 2
        whole, seconds = expected[name]
        can_fill = small_disk is not None and counts.trainings % 2 == 0
        training = Training(SCENARIOS[name], make_folder(small_disk if can_fill and small_disk else root, name), rng)
        try:
            interrupt_until_done(training, seconds, counts, is_full, can_fill)
            found = outcome(training)
            for part, content in whole.items():
                if found[part] != content:
                    raise SoakError(f"{name}: {part} differ from those of the uninterrupted training")
        except SoakError as error:
            kept = Path(tempfile.mkdtemp(prefix="soak-")) / name
            shutil.copytree(training.folder, kept)
            raise SoakError(f"{error}; its folder is kept in {kept}; so far {dict(counts.faults)}") from error
        shutil.rmtree(training.folder)
        counts.trainings += 1
    return counts


def main_soak() -> int:
    """Reads the command line, soaks, prints the summary; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-faults", type=int, help="end after so many faults")
    options = parser.parse_args()
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="ntm-rl-soak-"))
    small = root / "small"
    small.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(small)]
    can_mount = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    try:
        counts = soak(root, options.minutes, options.seed, small if can_mount else None, options.max_faults)
    except SoakError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if can_mount:
            subprocess.run(["umount", str(small)], check=False)
        shutil.rmtree(root, ignore_errors=True)
    kills = sum(number for name, number in counts.faults.items() if "kill" in name)
    summary = {
        "date": f"{datetime.date.today()}",
        "seed": options.seed,
        "seconds": round(time.monotonic() - began),
        "trainings finished with an identical result": counts.trainings,
        "kills survived": kills,
        "faults survived": counts.faults.total(),
        "faults": dict(sorted(counts.faults.items())),
        "checkpoints lost": counts.checkpoints_lost,
        "disk full": "by a small tmpfs" if can_mount else "left out: mounting a tmpfs is not allowed here",
    }
    print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main_soak())
